"""Index a folder of text files with LlamaIndex; a later run computes only the files that changed.

python ingestion.py notes/ cache/ "怎么退票？"
"""

import sys
from pathlib import Path

from llama_index.core import Document, VectorStoreIndex
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.node_parser import SentenceSplitter
from llama_index.core.schema import BaseNode

from llama_index_zh_retrieval import ModelScopeEmbedding


def ingest(folder: Path, cache: Path, embedding: ModelScopeEmbedding) -> list[BaseNode]:
    """Return the nodes of every file, with vectors, and print how many steps had to be computed."""
    splitter = SentenceSplitter(chunk_size=256, chunk_overlap=0, paragraph_separator="\n\n")
    pipeline = IngestionPipeline(transformations=[splitter, embedding])
    if cache.is_dir():
        pipeline.load(str(cache))
    known = len(pipeline.cache.cache.get_all(pipeline.cache.collection))
    nodes: list[BaseNode] = []
    for file in sorted(folder.rglob("*.txt")):  # one by one, so that each file has cache entries of its own
        name = str(file.relative_to(folder))
        document = Document(text=file.read_text(encoding="utf-8"), id_=name, metadata={"source": name})
        nodes += pipeline.run(documents=[document])
    pipeline.persist(str(cache))
    print("computed:", len(pipeline.cache.cache.get_all(pipeline.cache.collection)) - known)
    return nodes


def main(folder: str, cache: str, question: str) -> None:
    """Print the best chunks, their files and scores."""
    embedding = ModelScopeEmbedding("e5-small-zh")  # or "bge-base-zh", ...
    index = VectorStoreIndex(ingest(Path(folder), Path(cache), embedding), embed_model=embedding)
    for found in index.as_retriever(similarity_top_k=2).retrieve(question):
        print(f"{found.score:.3f}\t{found.node.metadata['source']}\t{found.text}")


if __name__ == "__main__":
    main(*sys.argv[1:])
