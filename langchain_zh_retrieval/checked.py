"""What the retrievers share: arguments that are refused with advice, and results that are copies."""

from __future__ import annotations

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import ConfigDict, ValidationError

from zh_retrieval.frameworks.conversion import copied
from zh_retrieval.frameworks.refusals import refusal
from zh_retrieval.validation import check_items


class CheckedRetriever(BaseRetriever):
    """A retriever whose unknown or wrong arguments are a ConfigError, when it is made and when a field is set."""

    model_config = ConfigDict(
        arbitrary_types_allowed=True, extra="forbid", validate_assignment=True, hide_input_in_errors=True
    )

    def __init__(self, **fields: Any) -> None:
        """Take the fields.

        Raises:
            ConfigError: An argument is unknown or has the wrong type.
        """
        refused = None
        try:
            super().__init__(**fields)
        except ValidationError as error:
            refused = refusal(type(self).__name__, error, list(type(self).model_fields))
        if refused is not None:
            raise refused

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field after all checks."""
        refused = None
        try:
            super().__setattr__(name, value)
        except ValidationError as error:
            refused = refusal(type(self).__name__, error, list(type(self).model_fields))
        if refused is not None:
            raise refused


def with_scores(document: Document, scores: Mapping[str, float | None], *, without: Sequence[str] = ()) -> Document:
    """Return a copy of the document whose metadata holds the scores; metadata that cannot be copied is shared."""
    kept = {name: value for name, value in document.metadata.items() if name not in without}
    return document.model_copy(update={"metadata": copied(kept) | dict(scores)})


def with_ids(documents: Sequence[Document]) -> list[Document]:
    """Return the documents; one without an id as a copy that has one.

    Raises:
        InputError: They are not a list of documents.
    """
    taken = check_items(documents, Document, "documents")
    return [each if each.id else each.model_copy(update={"id": str(uuid.uuid4())}) for each in taken]
