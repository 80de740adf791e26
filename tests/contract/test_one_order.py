"""The same documents, questions and model give the same order through LangChain, LlamaIndex and the core."""

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import NodeWithScore, TextNode

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.contract.demo_corpus import FOLDER, OPTIONS, passages, questions
from tests.tiny_models import tiny_causal_lm, tiny_xlmr_reranker


@pytest.fixture(scope="module")
def corpus():
    """Return the id and text of every demo passage."""
    return {name: text for name, text, _ in passages(None)}


@pytest.mark.slow
def test_embedders_find_the_same_ten_for_every_demo_question(corpus, encoder):
    names = list(corpus)
    vectors = encoder.encode_documents(list(corpus.values()))
    langchain = InMemoryVectorStore(lc.ModelScopeEmbeddings(**OPTIONS))
    langchain.add_documents([Document(page_content=text, id=name) for name, text in corpus.items()])
    nodes = [TextNode(id_=name, text=text) for name, text in corpus.items()]
    llama = VectorStoreIndex(nodes, embed_model=li.ModelScopeEmbedding(**OPTIONS)).as_retriever(similarity_top_k=10)
    asked = questions(None)
    assert len(asked) == len((FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()) > 70
    for question in asked:
        scores = dict(zip(names, vectors @ encoder.encode_queries([question])[0], strict=True))
        assert_in_order([document.id for document in langchain.similarity_search(question, k=10)], scores)
        assert_in_order([scored.node.node_id for scored in llama.retrieve(question)], scores)


def assert_in_order(found, scores):
    """Hold ids to the ten best, each in its place; what scores the same within float32's rounding may change places."""
    assert len(set(found)) == len(found) == 10
    best = sorted(scores.values(), reverse=True)[:10]
    assert [scores[name] for name in found] == pytest.approx(best, abs=1e-6, rel=0)


@pytest.mark.parametrize("name", ["BGEReranker", "RankingGPTReranker"])
def test_rerankers_give_the_same_order(name, corpus, tmp_path):
    folder = (tiny_xlmr_reranker if name == "BGEReranker" else tiny_causal_lm)(tmp_path)
    options = {"path": folder, "device": "cpu", "dtype": "float32"}
    model = "bge-reranker-large" if name == "BGEReranker" else "rankinggpt-qwen-7b"
    chosen = dict(list(corpus.items())[:20])
    with zr.load_reranker(model, **options) as core:
        langchain, llama = vars(lc)[name](**options), vars(li)[name](**options)
        for question in questions(10):
            order = [list(chosen)[entry.index] for entry in core.rank(question, list(chosen.values()))]
            documents = [Document(page_content=text, id=key) for key, text in chosen.items()]
            assert [document.id for document in langchain.compress_documents(documents, question)] == order
            nodes = [NodeWithScore(node=TextNode(id_=key, text=text)) for key, text in chosen.items()]
            assert [scored.node.node_id for scored in llama.postprocess_nodes(nodes, query_str=question)] == order
