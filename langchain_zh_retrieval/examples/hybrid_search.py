"""Hybrid search: the meaning of a question by vectors, its words by BM25, and what each side said of the best.

python hybrid_search.py passages.txt "怎么退票？"
"""

import sys
from pathlib import Path

from langchain_core.documents import Document

from langchain_zh_retrieval import HybridRetriever, ModelScopeEmbeddings


def shown(score: float | None) -> str:
    """Return a score as text; a side that did not find a passage has none."""
    return "-" if score is None else f"{score:.3f}"


def main(passages: str, question: str) -> None:
    """Print the best three passages with the fused score and both sides' own."""
    lines = Path(passages).read_text(encoding="utf-8").splitlines()
    documents = [Document(page_content=line, metadata={"line": number}) for number, line in enumerate(lines, 1) if line]
    retriever = HybridRetriever.from_documents(documents, ModelScopeEmbeddings("e5-small-zh"), k=3)
    # Documents in a store of yours: HybridRetriever(vectorstore=store, lexical=BM25Retriever.from_documents(documents))

    for found in retriever.invoke(question):
        both = [shown(found.metadata[side]) for side in ("hybrid_score", "dense_score", "lexical_score")]
        print(*both, f"line {found.metadata['line']}", found.page_content, sep="\t")


if __name__ == "__main__":
    main(*sys.argv[1:])
