"""The same model here and behind `zh-retrieval serve`: one argument, equal results."""

import asyncio
import json
import subprocess
import sys

import numpy as np
import pytest

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.contract.demo_corpus import FOLDER as CORPUS
from tests.server.serving import serving
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.cli.main import main
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeReranker

MODEL = "e5-small-zh"
OPTIONS = {"device": "cpu", "dtype": "float32"}
KEY = "sk-geheim"
TEXTS = [f"第{number}条：绿茶产自浙江，红茶产自福建。" * (1 + number % 7) for number in range(35)]
DOCUMENT = "".join(f"第{number}章讲茶的历史。它的作者住在杭州。" for number in range(40))


@pytest.fixture(scope="module")
def url():
    fake = FakeReranker("bge-reranker-large")
    settings = Settings(models=(MODEL,), options=OPTIONS, keys=(KEY,), max_texts=16, handles={fake.spec.name: fake})
    with serving(settings) as server:
        yield server.url


@pytest.fixture(scope="module")
def remote(url):
    with zr.load_encoder(MODEL, base_url=url, api_key=KEY) as handle:
        yield handle


def test_vectors_are_those_of_this_process(encoder, remote):
    assert remote.dimension == encoder.dimension
    assert remote.max_length == encoder.max_length
    for name in ("encode_queries", "encode_documents"):
        here, there = getattr(encoder, name)(TEXTS), getattr(remote, name)(TEXTS)
        np.testing.assert_allclose(there, here, atol=1e-6)
    np.testing.assert_allclose(asyncio.run(remote.aencode_documents(TEXTS)), encoder.encode_documents(TEXTS), atol=1e-6)


def test_late_chunks_are_those_of_this_process(encoder, remote):
    spans = sentence_spans(DOCUMENT, 60)
    np.testing.assert_allclose(remote.encode_chunks(DOCUMENT, spans), encoder.encode_chunks(DOCUMENT, spans), atol=1e-6)
    assert remote.encode_chunks(DOCUMENT, []).shape == (0, encoder.dimension)


def test_a_chain_is_remote_by_one_argument(url, encoder):
    there = {"base_url": url, "api_key": KEY}
    here = encoder.encode_queries(["绿茶"])[0]
    np.testing.assert_allclose(lc.ModelScopeEmbeddings(MODEL, **there).embed_query("绿茶"), here, atol=1e-6)
    np.testing.assert_allclose(li.ModelScopeEmbedding(MODEL, **there).get_query_embedding("绿茶"), here, atol=1e-6)
    kept = lc.BGEReranker(top_n=1, **there)
    [found] = kept.compress_documents([lc_document(text) for text in ("红酒", "绿茶")], "绿茶")
    assert (found.page_content, found.metadata["relevance_score"]) == ("绿茶", 1.0)


def lc_document(text):
    from langchain_core.documents import Document

    return Document(page_content=text)


def test_what_the_server_refuses_is_our_error(url, remote):
    with pytest.raises(zr.ConfigError, match="refused the key"):
        zr.load_encoder(MODEL, base_url=url, api_key="wrong")
    with pytest.raises(zr.UnknownModelError, match="does not serve bge-base-zh"):
        zr.load_encoder("bge-base-zh", base_url=url, api_key=KEY)
    with pytest.raises(zr.ConfigError, match="instruction"):
        remote.encode_queries(["茶"], instruction="找：")
    with pytest.raises(zr.ZhRetrievalError):
        remote.encode_documents(["茶" * 40_000_000])  # more than one request may hold


def test_cuts_are_told(remote, caplog):
    remote.encode_documents(["茶树" * 2000, "茶"])
    assert "1 of 2 texts were cut to 512 tokens by http://127.0.0.1" in caplog.text


@pytest.fixture
def folder(tmp_path):
    texts = ["西湖在杭州。", "长城在北京。", "龙井是绿茶。"]
    lines = {
        "corpus.jsonl": [{"_id": f"d{number}", "text": text} for number, text in enumerate(texts)],
        "queries.jsonl": [{"_id": f"q{number}", "text": text[:2]} for number, text in enumerate(texts)],
    }
    for name, entries in lines.items():
        (tmp_path / name).write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    (tmp_path / "qrels").mkdir()
    judged = "".join(f"q{number}\td{number}\t1\n" for number in range(len(texts)))
    (tmp_path / "qrels" / "test.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}", encoding="utf-8")
    return tmp_path


@pytest.fixture
def there(url, monkeypatch):
    """Return the flags of every command; the key comes from the environment."""
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", KEY)
    return ["--base-url", url]


@pytest.mark.slow
def test_the_demo_runs_there_in_two_stages(there, capsys):
    flags = ["--framework", "langchain", "--json", "--reranker", "bge-reranker-large"]
    assert main(["demo", *flags, "--query", "绿茶", "--input", str(CORPUS / "corpus.jsonl"), *there]) == 0
    assert json.loads(capsys.readouterr().out)["reranker"] == "bge-reranker-large"


def test_embed_and_rerank_run_there(there, encoder, folder):
    assert main(["embed", str(folder / "corpus.jsonl"), "--model", MODEL, "-o", str(folder / "v.npy"), *there]) == 0
    np.testing.assert_allclose(np.load(folder / "v.npy")[0], encoder.encode_documents(["西湖在杭州。"])[0], atol=1e-6)
    pairs, output = folder / "pairs.jsonl", folder / "scored.jsonl"
    pairs.write_text('{"query": "绿茶", "documents": ["红酒", "绿茶"]}\n', encoding="utf-8")
    assert main(["rerank", str(pairs), "--model", "bge-reranker-large", "-o", str(output), *there]) == 0
    assert json.loads(output.read_text(encoding="utf-8"))["documents"][0]["index"] == 1


def test_eval_measures_there(there, folder, capsys):
    flags = ["--reranker", "bge-reranker-large", "--cache", str(folder / "cache"), "--json"]
    assert main(["eval", str(folder), "--model", MODEL, *flags, *there]) == 0
    systems = {result["name"]: result for result in json.loads(capsys.readouterr().out)["results"]}
    assert any("reranker" in name for name in systems)
    assert all(result["metrics"]["R@10"] == 1 for result in systems.values())


def test_eval_takes_a_server_for_each_model(url, folder, capsys, monkeypatch):
    monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", KEY)
    models = ["--model", f"{MODEL},base_url={url},name=there", "--model", f"{MODEL},base_url={url}0,name=nowhere"]
    assert main(["eval", str(folder), *models[:2], "--no-bm25", "--cache", str(folder / "cache"), "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert (result["name"], result["metrics"]["R@10"]) == ("there", 1)
    assert main(["eval", str(folder), *models, "--no-bm25", "--cache", str(folder / "cache")]) == 2
    assert f"{url}0" in capsys.readouterr().err


def test_a_remote_handle_loads_nothing_that_computes(url):
    code = (
        "import sys, zh_retrieval as zr, langchain_zh_retrieval as lc, llama_index_zh_retrieval as li\n"
        f"there = dict(base_url={url!r}, api_key={KEY!r})\n"
        f"assert len(zr.load_encoder({MODEL!r}, **there).encode_queries(['茶'])) == 1\n"
        f"lc.ModelScopeEmbeddings({MODEL!r}, **there).embed_query('茶')\n"
        f"li.ModelScopeEmbedding({MODEL!r}, **there).get_query_embedding('茶')\n"
        "zr.load_reranker('bge-reranker-large', **there).score([('茶', '茶')])\n"
        "heavy = {'torch', 'transformers', 'openvino', 'tokenizers'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
