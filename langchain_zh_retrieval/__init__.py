"""zh-retrieval for LangChain: `Embeddings`, document compressors and cross-encoders."""

from zh_retrieval import MissingExtraError

try:
    import langchain_core  # noqa: F401
except ImportError as error:
    raise MissingExtraError('langchain-core is not installed. Run: pip install "zh-retrieval[langchain]"') from error

from langchain_zh_retrieval.chunking import late_chunks
from langchain_zh_retrieval.compressors import BGEReranker, ModelScopeReranker, RankingGPTReranker
from langchain_zh_retrieval.embeddings import ModelScopeEmbeddings

__all__ = ["BGEReranker", "ModelScopeEmbeddings", "ModelScopeReranker", "RankingGPTReranker", "late_chunks"]
