"""Answer questions about a folder of Markdown files; the index stays on disk and only new text is embedded.

python markdown_rag.py notes/ index/ "怎么退票？"
"""

import hashlib
import sys
from pathlib import Path

from langchain_chroma import Chroma
from langchain_core.documents import Document
from langchain_core.language_models import FakeListChatModel
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.runnables import RunnablePassthrough
from langchain_text_splitters import RecursiveCharacterTextSplitter

from langchain_zh_retrieval import ModelScopeEmbeddings

SEPARATORS = ["\n## ", "\n\n", "\n", "。", "！", "？", "；", "，", ""]
PROMPT = "根据资料回答问题。\n\n资料：\n{context}\n\n问题：{question}"


def read(folder: Path) -> list[Document]:
    """Return the chunks of every Markdown file; an id changes when its text does."""
    splitter = RecursiveCharacterTextSplitter(SEPARATORS, chunk_size=300, chunk_overlap=0)
    files = [
        Document(page_content=file.read_text(encoding="utf-8"), metadata={"source": str(file.relative_to(folder))})
        for file in sorted(folder.rglob("*.md"))
    ]
    chunks = splitter.split_documents(files)
    for chunk in chunks:
        chunk.id = hashlib.sha256(f"{chunk.metadata['source']}\n{chunk.page_content}".encode()).hexdigest()
    return list({chunk.id: chunk for chunk in chunks}.values())


def update(store: Chroma, chunks: list[Document]) -> int:
    """Bring the store up to date and return how many chunks were embedded."""
    stored = set(store.get(include=[])["ids"])
    new = [chunk for chunk in chunks if chunk.id not in stored]
    gone = stored - {chunk.id for chunk in chunks}
    if gone:
        store.delete(list(gone))
    if new:
        store.add_documents(new)
    return len(new)


def main(folder: str, index: str, question: str) -> None:
    """Print what was embedded, the sources and the answer."""
    embeddings = ModelScopeEmbeddings("e5-small-zh")  # or "bge-base-zh", ...
    store = Chroma("notes", embeddings, persist_directory=index, collection_metadata={"hnsw:space": "cosine"})
    print("embedded:", update(store, read(Path(folder))))
    retriever = store.as_retriever(search_kwargs={"k": 3})
    print("sources:", *(document.metadata["source"] for document in retriever.invoke(question)))
    model = FakeListChatModel(responses=["（这里是你的模型的回答）"])  # or ChatTongyi, ChatOpenAI, ...
    context = retriever | (lambda found: "\n\n".join(document.page_content for document in found))
    prompt = ChatPromptTemplate.from_template(PROMPT)
    chain = {"context": context, "question": RunnablePassthrough()} | prompt | model | StrOutputParser()
    print("answer:", chain.invoke(question))


if __name__ == "__main__":
    main(*sys.argv[1:])
