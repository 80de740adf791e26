"""Rows to queries, passages and judgements, with every row that is none counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zh_retrieval.evaluation.dataset import Dataset, Fault, Passage, Where
from zh_retrieval.evaluation.reading.rows import Row

_ID = ("_id", "id", "query-id", "query_id", "qid", "corpus-id", "corpus_id", "pid", "docid", "doc_id")
_TEXT = ("text", "query", "question", "passage", "document", "content", "body")
_QUERY = ("query-id", "query_id", "qid", "query")
_PASSAGE = ("corpus-id", "corpus_id", "pid", "docid", "doc-id", "doc_id", "corpus")
_GRADE = ("score", "relevance", "label", "rel", "grade")

MESSAGES: Mapping[str, tuple[Where, str]] = {
    "unreadable-line": ("files", "lines are no record (broken JSON, not UTF-8, a wrong number of columns): left out."),
    "no-id": ("files", "rows have no id: left out."),
    "no-text": ("files", "rows have no text: read as empty."),
    "duplicate-id": ("files", "ids are given again: the first row counts, the others are left out."),
    "duplicate-judgement": ("qrels", "judgements are given again with the same grade: they count once."),
    "conflicting-judgement": ("qrels", "judgements contradict an earlier one: the higher grade counts."),
    "bad-grade": ("qrels", "grades are no whole numbers: these judgements are left out."),
    "negative-grade": ("qrels", "grades are below 0: read as 0, wrong."),
}


class Collector:
    """Takes rows and gives a dataset."""

    def __init__(self) -> None:
        self.queries: dict[str, str] = {}
        self.corpus: dict[str, Passage] = {}
        self.qrels: dict[str, dict[str, int]] = {}
        self.synthetic = False
        self._rows = 0
        self._notes: dict[str, list[str]] = {}

    def note(self, kind: str, where: str) -> None:
        """Count a fault."""
        self._notes.setdefault(kind, []).append(where)

    def add_queries(self, found: Iterable[Row]) -> None:
        """Take rows with an id and a text; metadata {"synthetic": true} says that no person asked."""
        for fields, where in found:
            self._rows += 1
            if (name := self._new_id(fields, where, self.queries)) is not None:
                self.queries[name] = self._text(fields, where)
                metadata = fields.get("metadata")
                self.synthetic |= isinstance(metadata, dict) and metadata.get("synthetic") is True

    def add_passages(self, found: Iterable[Row]) -> None:
        """Take rows with an id, a text and perhaps a title."""
        for fields, where in found:
            self._rows += 1
            if (name := self._new_id(fields, where, self.corpus)) is not None:
                title = fields.get("title")
                self.corpus[name] = Passage(self._text(fields, where), title if isinstance(title, str) else "")

    def add_judgements(self, found: Iterable[Row]) -> None:
        """Take rows with the id of a query, that of a passage, and perhaps a grade."""
        for fields, where in found:
            self._rows += 1
            query, passage = _first(fields, _QUERY), _first(fields, _PASSAGE)
            if query is None or passage is None:
                self.note("no-id", where)
            else:
                self.judge(str(query), str(passage), _first(fields, _GRADE), where)

    def judge(self, query: str, passage: str, said: Any, where: str) -> None:
        """Take one judgement; a grade that is not said is 1."""
        grade = _grade(1 if said is None else said)
        if grade is None:
            self.note("bad-grade", f"{where} ({said})")
            return
        if grade < 0:
            self.note("negative-grade", f"{where} ({said})")
        grades = self.qrels.setdefault(query, {})
        grade = max(0, grade)
        if passage in grades:
            self.note("duplicate-judgement" if grades[passage] == grade else "conflicting-judgement", where)
        grades[passage] = max(grade, grades.get(passage, 0))

    def dataset(self, name: str, split: str | None = None) -> Dataset:
        """Return what was taken."""
        faults = tuple(
            Fault(kind, MESSAGES[kind][0], len(found), self._rows, tuple(found[:5]), MESSAGES[kind][1])
            for kind, found in self._notes.items()
        )
        return Dataset(name, self.queries, self.corpus, self.qrels, split, self.synthetic, faults)

    def _new_id(self, fields: dict[str, Any], where: str, taken: Mapping[str, object]) -> str | None:
        found = _first(fields, _ID)
        if found is None or found == "":
            self.note("no-id", where)
            return None
        if str(found) in taken:
            self.note("duplicate-id", f"{where} ({found})")
            return None
        return str(found)

    def _text(self, fields: dict[str, Any], where: str) -> str:
        found = _first(fields, _TEXT)
        if isinstance(found, str):
            return found
        self.note("no-text", where)
        return ""


def _first(fields: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((fields[name] for name in names if fields.get(name) is not None), None)


def _grade(said: Any) -> int | None:
    try:
        number = float(said)
        return int(number) if number == int(number) else None
    except (TypeError, ValueError, OverflowError):
        return None
