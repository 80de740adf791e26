"""Questions with their passages, one a line: nothing else is needed to begin."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from zh_retrieval.evaluation.dataset import Passage
from zh_retrieval.evaluation.reading.collecting import Collector
from zh_retrieval.evaluation.reading.rows import QUESTION, RIGHT, TITLE, WRONG, LocatedRow, field


def looks_like_pairs(fields: dict[str, Any]) -> bool:
    """Return True if a row has a question and a passage."""
    names = {str(name).strip().casefold() for name in fields}
    return bool(names.intersection(QUESTION)) and bool(names.intersection(RIGHT))


def add_pairs(collector: Collector, rows: Iterable[LocatedRow]) -> None:
    """Take {"question", "passage"} rows, {"问题", "答案"} too; FlagEmbedding's {"query", "pos": [...], "neg": [...]}.

    Equal texts are one passage, equal questions one query. Ids are q1, q2, ... and d1, d2, ... in order; passages that
    are called wrong are judged 0. A passage may be an object with title and text.
    """
    queries: dict[str, str] = {}
    passages: dict[Passage, str] = {}
    for fields, where in rows:
        question = field(fields, QUESTION)
        right, wrong = _passages(fields, RIGHT), _passages(fields, WRONG)
        if not isinstance(question, str) or not question.strip() or not right:
            collector.note("no-pair", where)
            continue
        if question not in queries:
            queries[question] = f"q{len(queries) + 1}"
            collector.queries[queries[question]] = question
        for grade, group in ((1, right), (0, wrong)):
            for passage in group:
                if passage not in passages:
                    passages[passage] = f"d{len(passages) + 1}"
                    collector.corpus[passages[passage]] = passage
                collector.judge(queries[question], passages[passage], grade, where)


def _passages(fields: dict[str, Any], names: tuple[str, ...]) -> list[Passage]:
    found: Any = field(fields, names)
    title = field(fields, TITLE)
    passages = []
    for entry in found if isinstance(found, list) else [found]:
        if isinstance(entry, str) and entry.strip():
            passages.append(Passage(entry, title if isinstance(title, str) and not isinstance(found, list) else ""))
        elif isinstance(entry, dict) and isinstance(entry.get("text"), str):
            passages.append(Passage(entry["text"], str(entry.get("title") or "")))
    return passages
