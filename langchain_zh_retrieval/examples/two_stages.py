"""Two stages: the embedder finds ten candidates, the reranker reads each with the question and keeps three.

python two_stages.py passages.txt "怎么退票？" --reranker-path models/bge-reranker-large
"""

import argparse
from pathlib import Path

from langchain_core.documents import Document
from langchain_core.runnables import RunnableParallel, RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from langchain_zh_retrieval import BGEReranker, ModelScopeEmbeddings


def main() -> None:
    """Print the best passages and their scores."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("passages", type=Path, help="a text file, one passage a line")
    parser.add_argument("question")
    parser.add_argument("--reranker-path", help="a folder with the weights; left out, they are downloaded (1.1 GB)")
    arguments = parser.parse_args()

    passages = arguments.passages.read_text(encoding="utf-8").splitlines()
    store = InMemoryVectorStore(ModelScopeEmbeddings("e5-small-zh"))  # or "bge-large-zh", ...
    store.add_texts([passage for passage in passages if passage])

    reranker = BGEReranker("bge-reranker-large", path=arguments.reranker_path, top_n=3, normalize="sigmoid")
    candidates = store.as_retriever(search_kwargs={"k": 10})
    chain = RunnableParallel(query=RunnablePassthrough(), documents=candidates) | reranker.as_runnable()

    found: list[Document] = chain.invoke(arguments.question)
    for document in found:
        print(f"{document.metadata['relevance_score']:.4f}\t{document.page_content}")


if __name__ == "__main__":
    main()
