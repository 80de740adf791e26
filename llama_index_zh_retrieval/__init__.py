"""zh-retrieval for LlamaIndex: embeddings, sparse embeddings, retrievers and node postprocessors."""

from zh_retrieval import MissingExtraError

try:
    import llama_index.core  # noqa: F401
except ImportError as error:
    raise MissingExtraError(
        'llama-index-core is not installed. Run: pip install "zh-retrieval[llama-index]"'
    ) from error

from llama_index_zh_retrieval.bm25 import BM25Retriever
from llama_index_zh_retrieval.chunking import LateChunkNodeParser
from llama_index_zh_retrieval.embeddings import ModelScopeEmbedding
from llama_index_zh_retrieval.postprocessors import BGEReranker, ModelScopeReranker, RankingGPTReranker
from llama_index_zh_retrieval.retrievers import HybridRetriever
from llama_index_zh_retrieval.sparse import ModelScopeSparseEmbedding

__all__ = [
    "BGEReranker",
    "BM25Retriever",
    "HybridRetriever",
    "LateChunkNodeParser",
    "ModelScopeEmbedding",
    "ModelScopeReranker",
    "ModelScopeSparseEmbedding",
    "RankingGPTReranker",
]
