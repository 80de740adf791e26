"""Which passage of the corpus a document or node of a framework is of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.faults.duplicates import normalized

Identify = Callable[[Any], str | None]
"""A document or node of the framework -> the id of its passage in the corpus; None if it is of none."""
_FIELDS = ("doc_id", "corpus_id", "passage_id", "_id", "id", "source")
"""Metadata that may hold the id of a passage."""


class Passages:
    """The passages of a corpus, by id and by text."""

    def __init__(self, dataset: Dataset, identify: Identify | None) -> None:
        self._corpus, self._identify = dataset.corpus, identify
        self._texts = {name: normalized(passage.joined()) for name, passage in dataset.corpus.items()}
        self._by_text: dict[str, str] = {}
        for name, passage in dataset.corpus.items():
            for key in (normalized(passage.text), self._texts[name]):
                if key:
                    self._by_text.setdefault(key, name)

    def of(self, document: Any) -> tuple[str | None, bool]:
        """Return the passage, None if it is none, and whether that is sure: False if its text is not the document's."""
        if self._identify is not None:
            found = self._identify(document)
            return (found if found in self._corpus else None), True
        node = getattr(document, "node", document)  # LlamaIndex wraps a node with its score
        text = normalized(_text(node))
        named = self._named(node)
        for name in named:
            if text and (text in self._texts[name] or (self._texts[name] and self._texts[name] in text)):
                return name, True
        if text in self._by_text:
            return self._by_text[text], True
        return (named[0], not text) if named else (None, True)

    def _named(self, node: Any) -> list[str]:
        """Return the passages that a node names, metadata first: a store numbers its rows as it likes."""
        metadata = getattr(node, "metadata", None) or {}
        told = (
            *(metadata.get(field) for field in _FIELDS),
            getattr(node, "ref_doc_id", None), getattr(node, "id", None), getattr(node, "node_id", None),
        )  # fmt: skip
        return list(dict.fromkeys(str(name) for name in told if name is not None and str(name) in self._corpus))


def _text(node: Any) -> str:
    content = getattr(node, "page_content", None)  # LangChain
    content = getattr(node, "text", None) if content is None else content  # LlamaIndex
    return content if isinstance(content, str) else ""
