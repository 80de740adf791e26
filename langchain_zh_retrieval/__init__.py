"""zh-retrieval for LangChain: embeddings, sparse embeddings, retrievers, document compressors and cross-encoders."""

from zh_retrieval import MissingExtraError

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError('langchain-core is not installed. Run: pip install "zh-retrieval[langchain]"') from error

from langchain_zh_retrieval.bm25 import BM25Retriever
from langchain_zh_retrieval.chunking import late_chunks
from langchain_zh_retrieval.compressors import BGEReranker, ModelScopeReranker, RankingGPTReranker
from langchain_zh_retrieval.embeddings import ModelScopeEmbeddings
from langchain_zh_retrieval.retrievers import HybridRetriever
from langchain_zh_retrieval.sparse import ModelScopeSparseEmbeddings

__all__ = [
    "BGEReranker",
    "BM25Retriever",
    "HybridRetriever",
    "ModelScopeEmbeddings",
    "ModelScopeReranker",
    "ModelScopeSparseEmbeddings",
    "RankingGPTReranker",
    "late_chunks",
]
