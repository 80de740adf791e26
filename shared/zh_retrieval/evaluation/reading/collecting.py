"""Rows to queries, passages and judgements, with every row that is none counted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.faults.kinds import fault
from zh_retrieval.evaluation.reading.rows import ID, TEXT, TITLE, LocatedRow, field

_QUERY = ("query-id", "query_id", "qid", "query")
_PASSAGE = ("corpus-id", "corpus_id", "pid", "docid", "doc-id", "doc_id", "corpus")
_GRADE = ("score", "relevance", "label", "rel", "grade")


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

    def add_queries(self, rows: Iterable[LocatedRow]) -> None:
        """Take rows with an id and a text; metadata {"synthetic": true} says that no person asked."""
        for fields, where in rows:
            self._rows += 1
            if (name := self._new_id(fields, where, self.queries)) is not None:
                self.queries[name] = self._text(fields, where)
                metadata = fields.get("metadata")
                self.synthetic |= isinstance(metadata, dict) and metadata.get("synthetic") is True

    def add_passages(self, rows: Iterable[LocatedRow]) -> None:
        """Take rows with an id, a text and perhaps a title."""
        for fields, where in rows:
            self._rows += 1
            if (name := self._new_id(fields, where, self.corpus)) is not None:
                title = field(fields, TITLE)
                self.corpus[name] = Passage(self._text(fields, where), title if isinstance(title, str) else "")

    def add_judgements(self, rows: Iterable[LocatedRow]) -> None:
        """Take rows with the id of a query, that of a passage, and perhaps a grade."""
        for fields, where in rows:
            self._rows += 1
            query, passage = field(fields, _QUERY), field(fields, _PASSAGE)
            if query is None or passage is None:
                self.note("no-id", where)
            else:
                self.judge(str(query), str(passage), field(fields, _GRADE), where)

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

    def leave_out(self, judgements: Iterable[LocatedRow]) -> None:
        """Take out the queries that have no judgement but one of these, which are of another split."""
        for fields, _ in judgements:
            query = str(field(fields, _QUERY))
            if query not in self.qrels:
                self.queries.pop(query, None)

    def dataset(self, name: str, split: str | None = None) -> Dataset:
        """Return what was taken."""
        faults = tuple(one for kind, found in self._notes.items() for one in fault(kind, found, self._rows))
        return Dataset(name, self.queries, self.corpus, self.qrels, split, self.synthetic, faults)

    def _new_id(self, fields: dict[str, Any], where: str, taken: Mapping[str, object]) -> str | None:
        found = field(fields, ID)
        if found is None or found == "":
            self.note("no-id", where)
            return None
        if str(found) in taken:
            self.note("duplicate-id", f"{where} ({found})")
            return None
        return str(found)

    def _text(self, fields: dict[str, Any], where: str) -> str:
        found = field(fields, TEXT)
        if isinstance(found, str):
            return found
        self.note("no-text", where)
        return ""


def _grade(said: Any) -> int | None:
    try:
        number = float(said)
        return int(number) if number == int(number) else None
    except (TypeError, ValueError, OverflowError):
        return None
