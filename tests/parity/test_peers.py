"""Our vectors and scores against the packages that people come from, each told by hand what our recipe knows."""

import numpy as np
import pytest
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, TextNode

import zh_retrieval as zr
from langchain_zh_retrieval import BGEReranker, ModelScopeEmbeddings
from llama_index_zh_retrieval import BGEReranker as LlamaReranker
from llama_index_zh_retrieval import ModelScopeEmbedding
from tests.tiny_models import tiny_bert, tiny_xlmr_reranker

OPTIONS = {"device": "cpu", "dtype": "float32"}
INSTRUCTION = "为这个句子生成表示以用于检索相关文章："
TEXTS = ["今天天气很好，我们去公园散步。", "他们在地上", "", "abc 123"]
QUERY = "天气好不好"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a BGE in its published layout, modules.json with [CLS] pooling included."""
    return tiny_bert(tmp_path_factory.mktemp("bge"), modules=True)


@pytest.fixture(scope="module")
def reranker_folder(tmp_path_factory):
    return tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))


@pytest.fixture(scope="module")
def langchain(folder):
    return ModelScopeEmbeddings("bge-base-zh", path=folder, **OPTIONS)


@pytest.fixture(scope="module")
def llama(folder):
    return ModelScopeEmbedding("bge-base-zh", path=folder, **OPTIONS)


def same(ours, theirs):
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_langchain_huggingface(folder, langchain):
    HuggingFaceEmbeddings = pytest.importorskip("langchain_huggingface").HuggingFaceEmbeddings  # noqa: N806

    peer = HuggingFaceEmbeddings(
        model_name=str(folder),
        encode_kwargs={"normalize_embeddings": True},
        query_encode_kwargs={"normalize_embeddings": True, "prompt": INSTRUCTION},
        model_kwargs={"device": "cpu"},
    )
    same(langchain.embed_documents(TEXTS), peer.embed_documents(TEXTS))
    same(langchain.embed_query(QUERY), peer.embed_query(QUERY))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # the class announces its end
def test_langchain_community_bge(folder, langchain):
    from langchain_community.embeddings import HuggingFaceBgeEmbeddings

    peer = HuggingFaceBgeEmbeddings(
        model_name=str(folder),
        query_instruction=INSTRUCTION,  # its own default is the English one unless the name ends in zh
        encode_kwargs={"normalize_embeddings": True},
        model_kwargs={"device": "cpu"},
    )
    same(langchain.embed_documents(TEXTS), peer.embed_documents(TEXTS))
    same(langchain.embed_query(QUERY), peer.embed_query(QUERY))


def test_llama_index_huggingface(folder, llama):
    HuggingFaceEmbedding = pytest.importorskip("llama_index.embeddings.huggingface").HuggingFaceEmbedding  # noqa: N806

    peer = HuggingFaceEmbedding(str(folder), query_instruction=INSTRUCTION, device="cpu")
    texts = [text for text in TEXTS if text]
    same(llama.get_text_embedding_batch(texts), peer.get_text_embedding_batch(texts))
    same(llama.get_query_embedding(QUERY), peer.get_query_embedding(QUERY))


def test_sentence_transformers(folder):
    from sentence_transformers import SentenceTransformer

    peer = SentenceTransformer(str(folder), prompts={"query": INSTRUCTION}, device="cpu")
    with zr.load_encoder("bge-base-zh", path=folder, **OPTIONS) as ours:
        same(ours.encode_documents(TEXTS), peer.encode_document(TEXTS))
        same(ours.encode_queries([QUERY]), peer.encode_query([QUERY]))


def test_llama_index_sentence_transformer_rerank(reranker_folder):
    from llama_index.core.postprocessor import SentenceTransformerRerank

    nodes = [NodeWithScore(node=TextNode(text=text, id_=text), score=0.0) for text in TEXTS if text]
    peer = SentenceTransformerRerank(model=str(reranker_folder), top_n=3, device="cpu")
    theirs = peer.postprocess_nodes(nodes, query_str=QUERY)
    ours = LlamaReranker(path=reranker_folder, top_n=3, normalize="sigmoid", **OPTIONS)
    found = ours.postprocess_nodes(nodes, query_str=QUERY)
    assert [node.node_id for node in found] == [node.node_id for node in theirs]
    same([node.score for node in found], [node.score for node in theirs])


def test_langchain_cross_encoder(reranker_folder):
    from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
    from langchain_community.cross_encoders import HuggingFaceCrossEncoder

    peer = HuggingFaceCrossEncoder(model_name=str(reranker_folder), model_kwargs={"device": "cpu"})
    documents = [Document(page_content=text) for text in TEXTS if text]
    ours = BGEReranker(path=reranker_folder, top_n=2, normalize="sigmoid", **OPTIONS)
    theirs = CrossEncoderReranker(model=peer, top_n=2).compress_documents(documents, QUERY)
    found = ours.compress_documents(documents, QUERY)
    assert [document.page_content for document in found] == [document.page_content for document in theirs]
    same(ours.score([(QUERY, text) for text in TEXTS]), peer.score([(QUERY, text) for text in TEXTS]))
