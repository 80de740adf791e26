"""Clients that people have, unchanged, against our server."""

from __future__ import annotations

import gc
from collections.abc import Iterator

import numpy as np
import openai
import pytest

import zh_retrieval as zr
from tests.server.serving import Server, serving
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.server.settings import Settings

MODEL = "e5-small-zh"
TEXTS = ["绿茶", "红茶"]

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    with serving(Settings((MODEL, f"bge-reranker-large={folder}"), {"dtype": "float32"})) as running:
        yield running
        gc.collect()  # sockets that clients leave open are found here, not by another module's tests


@pytest.fixture(scope="module")
def wanted() -> Iterator[dict[str, np.ndarray]]:
    with zr.load_encoder(MODEL, dtype="float32") as encoder:
        yield {"query": encoder.encode_queries(TEXTS), "document": encoder.encode_documents(TEXTS)}


def test_openai(server: Server, wanted: dict[str, np.ndarray]) -> None:
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="any", max_retries=0)
    for model, side in ((MODEL, "document"), (f"{MODEL}-query", "query")):
        found = client.embeddings.create(model=model, input=TEXTS)
        np.testing.assert_allclose([row.embedding for row in found.data], wanted[side], atol=1e-6)
    assert MODEL in [model.id for model in client.models.list()]
    with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length"):
        client.embeddings.create(model=MODEL, input=[[1, 2]])
    with pytest.raises(openai.NotFoundError, match=MODEL):
        client.embeddings.create(model="nope", input="好")


def test_langchain_openai(server: Server, wanted: dict[str, np.ndarray]) -> None:
    from langchain_openai import OpenAIEmbeddings

    embeddings = OpenAIEmbeddings(
        model=MODEL, base_url=f"{server.url}/v1", api_key="any", check_embedding_ctx_length=False
    )
    np.testing.assert_allclose(embeddings.embed_documents(TEXTS), wanted["document"], atol=1e-6)


def test_langchain_cohere(server: Server) -> None:
    from langchain_cohere import CohereRerank
    from langchain_core.documents import Document

    reranker = CohereRerank(base_url=server.url, cohere_api_key="any", model="bge-reranker-large", top_n=1)
    found = reranker.compress_documents([Document(text) for text in TEXTS], "茶")
    assert len(found) == 1
    assert 0 <= found[0].metadata["relevance_score"] <= 1


def test_cohere(server: Server) -> None:
    import cohere

    for client in (
        cohere.ClientV2(api_key="any", base_url=server.url),
        cohere.Client(api_key="any", base_url=server.url),
    ):
        found = client.rerank(model="bge-reranker-large", query="茶", documents=TEXTS, top_n=2)
        assert sorted(result.index for result in found.results) == [0, 1]


def test_huggingface_hub(server: Server, wanted: dict[str, np.ndarray]) -> None:
    from huggingface_hub import InferenceClient

    client = InferenceClient(model=server.url)
    np.testing.assert_allclose(
        client.feature_extraction(TEXTS[0], prompt_name="query"), wanted["query"][:1], atol=1e-6
    )  # fmt: skip


def test_llama_index_embeddings(server: Server, wanted: dict[str, np.ndarray]) -> None:
    from llama_index.embeddings.openai_like import OpenAILikeEmbedding
    from llama_index.embeddings.text_embeddings_inference import TextEmbeddingsInference

    for embedding in (
        OpenAILikeEmbedding(model_name=MODEL, api_base=f"{server.url}/v1", api_key="any"),
        TextEmbeddingsInference(model_name=MODEL, base_url=server.url),
    ):
        np.testing.assert_allclose(embedding.get_text_embedding_batch(TEXTS), wanted["document"], atol=1e-6)


def test_llama_index_rerankers(server: Server) -> None:
    from llama_index.core.schema import NodeWithScore, TextNode
    from llama_index.postprocessor.jinaai_rerank import JinaRerank
    from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
    from llama_index.postprocessor.xinference_rerank import XinferenceRerank

    nodes = [NodeWithScore(node=TextNode(text=text)) for text in TEXTS]
    for reranker in (
        TextEmbeddingInference(base_url=server.url, top_n=2),
        JinaRerank(base_url=f"{server.url}/v1", api_key="any", model="bge-reranker-large", top_n=2),
        XinferenceRerank(base_url=server.url, model="bge-reranker-large", top_n=2),
    ):
        found = reranker.postprocess_nodes(nodes, query_str="茶")
        assert sorted(node.get_content() for node in found) == sorted(TEXTS)


def test_ours(server: Server, wanted: dict[str, np.ndarray]) -> None:
    with zr.load_encoder(MODEL, base_url=server.url) as encoder:
        np.testing.assert_allclose(encoder.encode_queries(TEXTS), wanted["query"], atol=1e-6)
        with pytest.raises(zr.InputError, match=r"texts\[1\]"):
            encoder.encode_documents(["好", "\ud83d"])
