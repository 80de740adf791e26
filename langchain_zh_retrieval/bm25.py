"""BM25 over documents as a LangChain retriever that reads Chinese."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.callbacks import AsyncCallbackManagerForRetrieverRun, CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from pydantic import Field, PrivateAttr
from typing_extensions import Self

from langchain_zh_retrieval.checked import CheckedRetriever, with_ids, with_scores
from zh_retrieval import checks
from zh_retrieval.aside import aside
from zh_retrieval.frameworks.lexical import Shelf, check_count
from zh_retrieval.frameworks.shelf_files import Record, load_records, save_records

BM25_SCORE = "bm25_score"
Filter = Callable[[Document], bool]


class BM25Retriever(CheckedRetriever):
    """BM25 over documents: `BM25Retriever.from_documents(documents, k=10)`.

    It counts what `zh_retrieval.terms` finds: pairs of Chinese characters, words and numbers of other scripts. What
    comes back are copies of the documents that share a term with the question, best first, ties in their order, with
    the score in `metadata["bm25_score"]`. `retriever.invoke(question, k=3, filter=lambda document: ...)` asks for
    fewer, or for some. The index is made anew at the first question after documents were added or deleted: about a
    second for 20,000; millions belong into a store with sparse vectors (`ModelScopeSparseEmbeddings`).
    """

    k: int = Field(default=10, gt=0, description="How many documents to return.")
    k1: float = Field(default=1.2, ge=0, frozen=True, description="How fast a term's repetitions stop to count.")
    b: float = Field(default=0.75, ge=0, le=1, frozen=True, description="How much a document's length counts.")

    _shelf: Shelf[Document] = PrivateAttr()

    if TYPE_CHECKING:

        def __init__(
            self,
            documents: Sequence[Document] = (),
            *,
            k: int = 10,
            k1: float = 1.2,
            b: float = 0.75,
            tags: list[str] | None = None,
            metadata: dict[str, Any] | None = None,
        ) -> None: ...

    else:

        def __init__(self, documents: Sequence[Document] = (), **fields: Any) -> None:
            super().__init__(**fields)
            self._shelf = Shelf(k1=self.k1, b=self.b)
            self.add_documents(documents)

    @classmethod
    def from_documents(cls, documents: Sequence[Document], **fields: Any) -> Self:
        """Return a retriever of these documents; `fields` are those of the class.

        Raises:
            InputError: They are not documents with valid text.
            ConfigError: A field is unknown or wrong.
        """
        return cls(documents, **fields)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        metadatas: Sequence[dict[str, Any]] | None = None,
        *,
        ids: Sequence[str | None] | None = None,
        **fields: Any,
    ) -> Self:
        """Return a retriever of these texts, with metadata and ids where they are given."""
        check_count(texts if metadatas is None else metadatas, len(texts), "metadatas")
        check_count(texts if ids is None else ids, len(texts), "ids")
        documents = [
            Document(
                page_content=text,
                metadata={} if metadatas is None else metadatas[place],
                id=None if ids is None else ids[place],
            )
            for place, text in enumerate(texts)
        ]
        return cls(documents, **fields)

    @property
    def documents(self) -> list[Document]:
        """Return copies of the documents in their order, each with the id by which it can be deleted."""
        return [with_scores(each, {}) for each in self._shelf.items]

    def add_documents(self, documents: Sequence[Document]) -> list[str]:
        """Add copies of the documents and return their ids; one whose id is there takes that one's place.

        Raises:
            InputError: They are not documents with valid text; nothing is added.
        """
        named = with_ids(documents)
        self._shelf = self._shelf.with_items((str(each.id), with_scores(each, {}), each.page_content) for each in named)
        return [str(each.id) for each in named]

    def delete(self, ids: Sequence[str]) -> None:
        """Forget the documents of these ids; ids that are not there are no error."""
        self._shelf = self._shelf.without(ids)

    def save(self, folder: str | Path) -> None:
        """Write documents and settings into the folder, for `load` in any process.

        Raises:
            InputError: Metadata holds what JSON cannot give back as it was.
            OSError: It cannot be written; what was there before stays.
        """
        settings = {"k": self.k, "k1": self.k1, "b": self.b}
        save_records(folder, "langchain", settings, map(_record, self._shelf.items))

    @classmethod
    def load(cls, folder: str | Path, **fields: Any) -> Self:
        """Return what `save` wrote; `fields` replace its settings.

        Raises:
            CheckpointError: The folder holds nothing of the kind.
        """
        settings, records = load_records(folder, "langchain")
        return cls([Document(**record) for record in records], **{**settings, **fields})

    def _get_relevant_documents(
        self, query: str, *, run_manager: CallbackManagerForRetrieverRun, k: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:  # fmt: skip
        return self._search(query, k, filter)

    async def _aget_relevant_documents(
        self, query: str, *, run_manager: AsyncCallbackManagerForRetrieverRun, k: int | None = None,
        filter: Filter | None = None,
    ) -> list[Document]:  # fmt: skip
        return await aside(self._search, query, k, filter)

    def _search(self, query: str, k: int | None, keep: Filter | None) -> list[Document]:
        found = self._shelf.search(query, self.k if k is None else checks.whole_number("k", k), keep)
        return [with_scores(document, {BM25_SCORE: score}) for document, score in found]


def _record(document: Document) -> Record:
    values = {"id": document.id, "page_content": document.page_content, "metadata": document.metadata}
    return Record(str(document.id), document.metadata, values)
