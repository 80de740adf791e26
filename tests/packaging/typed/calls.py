"""Every public call, as a user's own checker sees it: a line is wrong where it says `# wrong`, and nowhere else."""

from __future__ import annotations

from pathlib import Path

from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import BaseDocumentCompressor, Document
from langchain_core.embeddings import Embeddings
from langchain_core.retrievers import BaseRetriever
from langchain_core.vectorstores import InMemoryVectorStore
from llama_index.core import Settings
from llama_index.core.base.base_retriever import BaseRetriever as LlamaRetriever
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.base.embeddings.base_sparse import BaseSparseEmbedding
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import TextNode

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr

one: Embeddings = lc.ModelScopeEmbeddings("bge-base-zh", path=Path("x"), dtype="float32", device="cpu")
two: Embeddings = lc.ModelScopeEmbeddings(model="bge-base-zh", max_length=128, query_instruction="")
three = lc.ModelScopeEmbeddings(model_name="bge-base-zh", base_url="http://gpu:8080", api_key="k", timeout=3.0)
lc.ModelScopeEmbeddings("bge-base-zh", dialect="openai", served_model_name="x", score_scale="logit")
lc.ModelScopeEmbeddings("bge-base-zh", quantization="int8", threads=2, overflow="error", show_progress=True)
lc.ModelScopeEmbeddings("bge-base-zh", revision="v1", cache_dir="/x", local_files_only=True, private=True)
lc.ModelScopeEmbeddings("bge-base-zh", dtyp="float32")  # wrong
lc.ModelScopeEmbeddings("bge-base-zh", dtype="fp32")  # wrong
lc.ModelScopeEmbeddings("bge-base-zh", max_length="512")  # wrong
lc.ModelScopeEmbeddings("bge-base-zh", model_kwargs={})  # wrong
vector: list[float] = one.embed_query("x")
namespace: str = three.cache_namespace
name: str = three.model
InMemoryVectorStore(three)
chunks: tuple[list[Document], list[list[float]]] = lc.late_chunks([Document("x")], three)

four: BaseDocumentCompressor = lc.BGEReranker(top_n=3, normalize="sigmoid", on_error="raise")
five: BaseCrossEncoder = lc.RankingGPTReranker("rankinggpt", normalize="exp", score_threshold=0.1)
six: BaseDocumentCompressor = lc.ModelScopeReranker("qwen3-reranker-0.6b", instruction="x", normalize="sigmoid")
lc.BGEReranker(model_name="bge-reranker-base", base_url="http://gpu:8080")
lc.BGEReranker(top_n="3")  # wrong
lc.BGEReranker(normalize="exp")  # wrong
lc.RankingGPTReranker(normalize="sigmoid")  # wrong
lc.ModelScopeReranker("bge-reranker-large", topn=3)  # wrong
lc.BGEReranker(top_n=3).as_runnable().invoke({"query": "x", "documents": [Document("x")]})

sparse = lc.ModelScopeSparseEmbeddings("bm25-zh", k1=1.2, b=0.75, average_length=99.0)
lc.ModelScopeSparseEmbeddings("bge-m3", base_url="http://gpu:8080", device="cpu")
lc.ModelScopeSparseEmbeddings("bm25-zh", k="1")  # wrong
weights: dict[int, float] = sparse.embed_query("x")
indices: list[int] = sparse.embed_query("x").indices
bm25 = lc.BM25Retriever.from_documents([Document("x")], k=3)
lc.BM25Retriever.from_texts(["x"], [{"a": 1}], ids=["1"], b=0.5)
lc.BM25Retriever([Document("x")], k="3")  # wrong
found: list[Document] = bm25.invoke("x", k=1)
chain_retriever: BaseRetriever = lc.HybridRetriever.from_documents([Document("x")], one, k=3, weight=0.3, depth=50)
lc.HybridRetriever(vectorstore=InMemoryVectorStore(one), lexical=bm25, search_kwargs={"filter": {"a": "b"}})
lc.HybridRetriever(dense=bm25, lexical=bm25, score_key="bm25_score", lexical_filter=lambda document: True)
lc.HybridRetriever(vectorstore=InMemoryVectorStore(one), lexical=bm25, wieght=0.5)  # wrong
lc.HybridRetriever.from_documents([Document("x")], one, k="3")  # wrong

Settings.embed_model = li.ModelScopeEmbedding("bge-base-zh")
seven: BaseEmbedding = li.ModelScopeEmbedding(model_name="bge-base-zh", embed_batch_size=8, num_workers=2)
li.ModelScopeEmbedding("bge-base-zh", embed_batch="8")  # wrong
eight: BaseNodePostprocessor = li.BGEReranker(top_n=3, keep_retrieval_score=True)
li.RankingGPTReranker(normalize="exp", path="x")
li.ModelScopeReranker("qwen3-reranker-0.6b", normalize="sigmoid")
li.BGEReranker(keep_retrieval_scores=True)  # wrong
words: BaseSparseEmbedding = li.ModelScopeSparseEmbedding("bm25-zh", embed_batch_size=8, k1=1.0)
batch: tuple[list[list[int]], list[list[float]]] = li.ModelScopeSparseEmbedding("bm25-zh").sparse_doc_fn(["x"])
li.ModelScopeSparseEmbedding("bm25-zh", batch=8)  # wrong
lexical = li.BM25Retriever.from_nodes([TextNode(text="x")], similarity_top_k=3)
engine_retriever: LlamaRetriever = li.HybridRetriever(lexical, lexical, similarity_top_k=3, weight=0.3, verbose=True)
li.HybridRetriever(lexical, lexical, top_k=3)  # wrong
li.HybridRetriever(lexical)  # wrong
li.LateChunkNodeParser(embed_model=li.ModelScopeEmbedding("jina-base-zh"), chunk_size=200)

encoder: zr.Encoder = zr.load_encoder("e5-small-zh", device="cpu", dtype="float32")
encoder.encode_queries(["a"], instruction="x").tolist()
with zr.load_reranker("bge-reranker-large", path=Path("x"), overflow="window") as reranker:
    ranked: list[zr.Ranked] = reranker.rank("q", ["a"], top_n=1)
zr.load_encoder("e5-small-zh", dtype="fp32")  # wrong
zr.load_encoder("e5-small-zh", normalise=True)  # wrong


async def later() -> list[float]:
    await encoder.aencode_documents(["x"])
    await four.acompress_documents([Document("x")], "q")
    await chain_retriever.ainvoke("x")
    await engine_retriever.aretrieve("x")
    return await one.aembed_query("x")
