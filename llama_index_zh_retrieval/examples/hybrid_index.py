"""Hybrid search over a folder of text files; the index is kept in a folder, and a later run only reads it.

python hybrid_index.py notes/ index/ "怎么退票？"
"""

import sys
from pathlib import Path

from llama_index.core import Document, StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.node_parser import SentenceSplitter

from llama_index_zh_retrieval import BM25Retriever, HybridRetriever, ModelScopeEmbedding


def build(notes: Path, folder: str, embedding: ModelScopeEmbedding) -> None:
    """Split the files and write both sides of the index into the folder."""
    documents = [
        Document(text=file.read_text(encoding="utf-8"), metadata={"source": str(file.relative_to(notes))})
        for file in sorted(notes.rglob("*.txt"))
    ]
    nodes = SentenceSplitter(chunk_size=256, chunk_overlap=0).get_nodes_from_documents(documents)
    VectorStoreIndex(nodes, embed_model=embedding).storage_context.persist(folder)
    BM25Retriever.from_nodes(nodes).persist(folder)


def main(notes: str, folder: str, question: str) -> None:
    """Print the best chunks, their files and fused scores."""
    embedding = ModelScopeEmbedding("e5-small-zh")  # or "bge-base-zh", ...
    if not Path(folder).is_dir():
        build(Path(notes), folder, embedding)
        print("indexed", notes)
    index = load_index_from_storage(StorageContext.from_defaults(persist_dir=folder), embed_model=embedding)
    dense, lexical = index.as_retriever(similarity_top_k=100), BM25Retriever.from_persist_dir(folder)

    for found in HybridRetriever(dense, lexical, similarity_top_k=2).retrieve(question):
        print(f"{found.score:.3f}\t{found.node.metadata['source']}\t{found.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
