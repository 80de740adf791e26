"""What is evaluated on: questions, passages, and which passage answers which question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Where = Literal["queries", "corpus", "qrels", "files", "system"]


@dataclass(frozen=True, slots=True)
class Fault:
    """Something in the data, or in what a system makes of it, that a mean would hide.

    Attributes:
        kind: Its name, the same for every case of it: "unknown-document", "near-duplicates", ...
        where: Which side it is on; "system" for what depends on a model.
        count: How many there are.
        total: Of how many.
        examples: A few of them: ids, or file and line.
        message: What it is, what it does to the numbers, and what to do.
        message_zh: The same in Chinese.
        loses: True if something that was given or asked could not be used: rows, judgements, questions, results.
    """

    kind: str
    where: Where
    count: int
    total: int
    examples: tuple[str, ...]
    message: str
    message_zh: str = ""
    loses: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return {
            "kind": self.kind, "where": self.where, "count": self.count, "total": self.total,
            "examples": list(self.examples), "message": self.message, "message_zh": self.message_zh,
            "loses": self.loses,
        }  # fmt: skip


@dataclass(frozen=True, slots=True)
class Passage:
    """One entry of the corpus."""

    text: str
    title: str = ""

    def joined(self, *, title: bool = True) -> str:
        """Return what a model reads: the title, a newline and the text; the text alone without a title."""
        return f"{self.title}\n{self.text}" if title and self.title else self.text


@dataclass(frozen=True, slots=True, repr=False)
class Dataset:
    """Questions, passages and judgements, in the order of the files.

    Attributes:
        name: What reports call it: the folder's name.
        queries: Query id -> question.
        corpus: Passage id -> passage.
        qrels: Query id -> passage id -> grade: 0 is wrong, 1 and more right. A passage that is not named is unjudged,
            and counts as wrong. Judgements of passages that the corpus lacks stay: nobody can find those.
        split: Which split the judgements are of, where the data have several.
        synthetic: True if no person wrote the questions.
        faults: What was found while reading the files.
    """

    name: str
    queries: Mapping[str, str]
    corpus: Mapping[str, Passage]
    qrels: Mapping[str, Mapping[str, int]]
    split: str | None = None
    synthetic: bool = False
    faults: tuple[Fault, ...] = ()

    def __repr__(self) -> str:
        """Return name and sizes: the texts would fill screens."""
        return f"<Dataset {self.name!r}: {len(self.judged)} questions, {len(self.corpus)} passages>"

    @property
    def judged(self) -> tuple[str, ...]:
        """Return the ids of the queries that count: in `queries`, with a right answer, in their order."""
        return tuple(query for query in self.queries if any(grade > 0 for grade in self.qrels.get(query, {}).values()))
