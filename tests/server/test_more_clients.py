"""More clients that people have, unchanged, against our server: Cohere's, Hugging Face's, Ollama's, Voyage's, ..."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import pytest

import zh_retrieval as zr
from tests.server.serving import Server, serving
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.server.settings import Settings

MODEL = "e5-small-zh"
RERANKER = "bge-reranker-large"
TEXTS = ["绿茶", "红茶"]
KEY = "sesame"

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    with serving(Settings((MODEL, f"{RERANKER}={folder}"), {"dtype": "float32"}, keys=(KEY,))) as running:
        yield running
        gc.collect()  # sockets that clients leave open are found here, not by another module's tests


@pytest.fixture(scope="module")
def wanted() -> Iterator[dict[str, np.ndarray]]:
    with zr.load_encoder(MODEL, dtype="float32") as encoder:
        yield {"query": encoder.encode_queries(TEXTS), "document": encoder.encode_documents(TEXTS)}


def test_cohere_embeds(server: Server, wanted: dict[str, np.ndarray]) -> None:
    import cohere

    newer = cohere.ClientV2(api_key=KEY, base_url=server.url)
    for word, side in (("search_query", "query"), ("search_document", "document")):
        found = newer.embed(texts=TEXTS, model=MODEL, input_type=word, embedding_types=["float"], truncate="END")
        np.testing.assert_allclose(found.embeddings.float_, wanted[side], atol=1e-6)
    short = newer.embed(texts=TEXTS, model=MODEL, input_type="search_query", output_dimension=384)
    assert len(short.embeddings.float_[0]) == 384
    older = cohere.Client(api_key=KEY, base_url=server.url)
    found = older.embed(texts=TEXTS, model=MODEL, input_type="search_query")
    np.testing.assert_allclose(found.embeddings, wanted["query"], atol=1e-6)
    with pytest.raises(cohere.BadRequestError, match="embedding_types"):
        newer.embed(texts=TEXTS, model=MODEL, input_type="search_query", embedding_types=["int8"])
    with pytest.raises(cohere.UnprocessableEntityError, match=r"texts\[0\]"):
        newer.embed(texts=["茶" * 3000], model=MODEL, input_type="search_query", truncate="NONE")


def test_langchain_cohere_embeds(server: Server, wanted: dict[str, np.ndarray]) -> None:
    from langchain_cohere import CohereEmbeddings

    embeddings = CohereEmbeddings(model=MODEL, base_url=server.url, cohere_api_key=KEY)
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), wanted["document"], atol=1e-6)
    np.testing.assert_allclose(embeddings.embed_query(TEXTS[0]), wanted["query"][0], atol=1e-6)


def test_huggingface_hub_compares_sentences(server: Server, wanted: dict[str, np.ndarray]) -> None:
    from huggingface_hub import InferenceClient

    cosine = float(wanted["document"][0] @ wanted["document"][1])
    for address in (server.url, f"{server.url}/similarity"):
        found = InferenceClient(model=address, token=KEY).sentence_similarity(TEXTS[0], TEXTS)
        np.testing.assert_allclose(found, [1, cosine], atol=1e-5)


def test_ollama(server: Server, wanted: dict[str, np.ndarray]) -> None:
    import ollama

    client = ollama.Client(host=server.url, headers={"Authorization": f"Bearer {KEY}"})
    assert [model.model for model in client.list().models] == [MODEL, f"{MODEL}-query", f"{MODEL}-document"]
    for name, side in ((f"{MODEL}:latest", "document"), (f"{MODEL}-query", "query")):
        found = client.embed(name, TEXTS, keep_alive="5m", options={"num_ctx": 512})
        np.testing.assert_allclose(found.embeddings, wanted[side], atol=1e-6)
        one = client.embeddings(name, TEXTS[0])
        np.testing.assert_allclose(one.embedding, wanted[side][0], atol=1e-6)
    assert found.prompt_eval_count
    shown = client.show(f"{MODEL}:latest")
    assert shown.capabilities == ["embedding"]
    assert shown.modelinfo is not None
    assert 384 in shown.modelinfo.values()
    with pytest.raises(ollama.ResponseError, match=r"input\[0\]"):
        client.embed(MODEL, ["茶" * 3000], truncate=False)
    with pytest.raises(ollama.ResponseError, match=MODEL) as caught:
        client.embed("nope", TEXTS)
    assert caught.value.status_code == 404


def test_voyage(server: Server, wanted: dict[str, np.ndarray]) -> None:
    import voyageai

    client = voyageai.Client(api_key=KEY, base_url=f"{server.url}/v1")
    for side in ("query", "document"):
        found = client.embed(TEXTS, model=MODEL, input_type=side, output_dimension=384)
        np.testing.assert_allclose(found.embeddings, wanted[side], atol=1e-6)
    assert found.total_tokens
    results = client.rerank("茶", TEXTS, model=RERANKER, top_k=1).results
    assert [result.document for result in results] == [TEXTS[results[0].index]]


def test_xinference(server: Server, wanted: dict[str, np.ndarray]) -> None:
    from xinference_client import RESTfulClient

    client = RESTfulClient(server.url, api_key=KEY)
    assert set(client.list_models()) == {MODEL, f"{MODEL}-query", f"{MODEL}-document", RERANKER}
    assert client.describe_model(MODEL)["model_type"] == "embedding"
    for name, side in ((MODEL, "document"), (f"{MODEL}-query", "query")):
        data = client.get_model(name).create_embedding(TEXTS)["data"]
        np.testing.assert_allclose([row["embedding"] for row in data], wanted[side], atol=1e-6)
    results = client.get_model(RERANKER).rerank(TEXTS, "茶", top_n=1, return_documents=True, return_len=True)["results"]
    assert [entry["document"]["text"] for entry in results] == [TEXTS[results[0]["index"]]]
    with pytest.raises(RuntimeError, match="empty"):
        client.get_model(RERANKER).rerank([], "茶")


@pytest.mark.slow  # its import takes seconds; what it sends to infinity is recorded in test_recorded_clients.py
def test_litellm(server: Server, wanted: dict[str, np.ndarray]) -> None:
    import litellm

    for provider, base in (("infinity", "/infinity"), ("infinity", "/v1"), ("openai", "/v1")):
        options = {"api_base": server.url + base, "api_key": KEY, "encoding_format": "float"}
        found = litellm.embedding(f"{provider}/{MODEL}-query", input=TEXTS, **options)
        np.testing.assert_allclose([row["embedding"] for row in found.data], wanted["query"], atol=1e-6)
    found = litellm.embedding(f"ollama/{MODEL}", input=TEXTS, api_base=server.url, api_key=KEY)
    np.testing.assert_allclose([row["embedding"] for row in found.data], wanted["document"], atol=1e-6)
    addresses = {"infinity": "/infinity", "cohere": "", "jina_ai": "/v1/rerank", "hosted_vllm": ""}
    for provider, base in addresses.items():
        options = {"top_n": 2, "return_documents": True, "api_base": server.url + base, "api_key": KEY}
        results = litellm.rerank(f"{provider}/{RERANKER}", "茶", TEXTS, **options).results
        assert [entry["document"]["text"] for entry in results] == [TEXTS[entry["index"]] for entry in results], (
            provider
        )
