"""LangChain over real vector stores on disk: add, search, filter, restart, search again; order as by brute force."""

from uuid import NAMESPACE_URL, uuid5

import pytest
from langchain_core.documents import Document

from langchain_zh_retrieval import ModelScopeEmbeddings
from tests.contract.demo_corpus import OPTIONS, brute_force, passages, questions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def documents():
    return [
        Document(page_content=text, metadata={"id": name, "topic": topic, "pages": [1, 2], "深": {"层": topic}})
        for name, text, topic in passages()
    ]


def flat(document):
    kept = {key: value for key, value in document.metadata.items() if isinstance(value, str)}
    return Document(page_content=document.page_content, metadata=kept)


class Faiss:
    """FAISS, saved to and loaded from a folder."""

    def __init__(self, folder, embeddings):
        from langchain_community.vectorstores import FAISS

        self.folder, self.embeddings, self.kind = folder, embeddings, FAISS

    def fill(self):
        self.kind.from_documents(documents(), self.embeddings).save_local(str(self.folder))

    def search(self, question, k, topic=None):
        store = self.kind.load_local(str(self.folder), self.embeddings, allow_dangerous_deserialization=True)
        chosen = {"topic": topic} if topic else None
        return store.similarity_search_with_score(question, k=k, filter=chosen, fetch_k=100)

    similarity = staticmethod(lambda score: 1 - score / 2)  # squared distance of vectors of length 1


class Chroma:
    """Chroma, embedded and persistent."""

    def __init__(self, folder, embeddings):
        from langchain_chroma import Chroma as Store

        self.open = lambda: Store(
            "demo", embeddings, persist_directory=str(folder), collection_metadata={"hnsw:space": "cosine"}
        )

    def fill(self):
        self.open().add_documents([flat(document) for document in documents()])

    def search(self, question, k, topic=None):
        chosen = {"topic": topic} if topic else None
        return self.open().similarity_search_with_score(question, k=k, filter=chosen)

    similarity = staticmethod(lambda score: 1 - score)


class Qdrant:
    """Qdrant, local and persistent."""

    def __init__(self, folder, embeddings):
        self.folder, self.embeddings = folder, embeddings

    def fill(self):
        from langchain_qdrant import QdrantVectorStore

        ids = [str(uuid5(NAMESPACE_URL, name)) for name, _, _ in passages()]
        store = QdrantVectorStore.from_documents(
            documents(), self.embeddings, ids=ids, path=str(self.folder), collection_name="demo"
        )
        store.client.close()

    def search(self, question, k, topic=None):
        from langchain_qdrant import QdrantVectorStore
        from qdrant_client import models

        store = QdrantVectorStore.from_existing_collection("demo", self.embeddings, path=str(self.folder))
        chosen = None
        if topic:
            match = models.FieldCondition(key="metadata.topic", match=models.MatchValue(value=topic))
            chosen = models.Filter(must=[match])
        try:
            return store.similarity_search_with_score(question, k=k, filter=chosen)
        finally:
            store.client.close()

    similarity = staticmethod(lambda score: score)


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Faiss, Chroma, Qdrant])
def test_a_store_on_disk_ranks_as_brute_force_after_a_restart(kind, tmp_path, encoder):
    kind(tmp_path / "store", ModelScopeEmbeddings(**OPTIONS)).fill()
    store = kind(tmp_path / "store", ModelScopeEmbeddings(**OPTIONS))  # nothing of the first one is kept
    for question in questions():
        found = store.search(question, 5)
        assert [document.metadata["id"] for document, _ in found] == brute_force(encoder, question, 5)
        best = store.similarity(found[0][1])
        vectors = encoder.encode_documents([found[0][0].page_content]), encoder.encode_queries([question])
        assert best == pytest.approx(float(vectors[0][0] @ vectors[1][0]), abs=1e-4)


@pytest.mark.parametrize("kind", [Faiss, Chroma, Qdrant])
def test_filters_on_metadata_hold(kind, tmp_path, encoder):
    store = kind(tmp_path / "store", ModelScopeEmbeddings(**OPTIONS))
    store.fill()
    for question in questions(3):
        found = store.search(question, 4, "topic1")
        assert [document.metadata["id"] for document, _ in found] == brute_force(encoder, question, 4, "topic1")
        assert {document.metadata["topic"] for document, _ in found} == {"topic1"}
