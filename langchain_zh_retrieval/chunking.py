"""Late chunking for LangChain: documents to chunks whose vectors know the whole document."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from langchain_zh_retrieval.embeddings import ModelScopeEmbeddings
from zh_retrieval import InputError
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.frameworks.conversion import copied
from zh_retrieval.validation import check_items


def late_chunks(
    documents: Sequence[Document], embeddings: ModelScopeEmbeddings, *, chunk_size: int = 300
) -> tuple[list[Document], list[list[float]]]:
    """Return the chunks of the documents and one vector for each, from one pass over each document.

    Chunks are whole sentences up to `chunk_size` characters; metadata is copied and gets `start_index`. Put both into a
    vector store with `store.add_embeddings(...)` or the store's own way of taking vectors.

    Raises:
        ConfigError: The model does not pool by mean.
        InputError: The arguments are the other way round, or no such things.
    """
    if isinstance(documents, ModelScopeEmbeddings) or not isinstance(embeddings, ModelScopeEmbeddings):
        raise InputError(
            f"late_chunks got ({type(documents).__name__}, {type(embeddings).__name__}), expected "
            "(documents, ModelScopeEmbeddings): late_chunks(documents, embeddings)."
        )
    chunks: list[Document] = []
    vectors: list[list[float]] = []
    for document in check_items(documents, Document, "documents"):
        spans = sentence_spans(document.page_content, chunk_size)
        vectors += embeddings.embed_chunks(document.page_content, spans)
        chunks += [
            Document(
                page_content=document.page_content[start:end],
                metadata=copied(document.metadata) | {"start_index": start},
            )
            for start, end in spans
        ]
    return chunks, vectors
