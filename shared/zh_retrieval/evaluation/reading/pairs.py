"""Questions with their passages, one a line: nothing else is needed to begin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from zh_retrieval.evaluation.dataset import Passage
from zh_retrieval.evaluation.reading.collecting import Collector
from zh_retrieval.evaluation.reading.rows import Row

_QUESTION = ("question", "query", "anchor")
_RIGHT = ("passage", "passages", "positive", "positives", "pos", "answer", "document", "documents", "context", "text")
_WRONG = ("negative", "negatives", "neg")


def looks_like_pairs(fields: Mapping[str, Any]) -> bool:
    """Return True if a row has a question and a passage."""
    return any(name in fields for name in _QUESTION) and any(name in fields for name in _RIGHT)


def add_pairs(collector: Collector, found: Iterable[Row]) -> None:
    """Take {"question", "passage"} rows; FlagEmbedding's {"query", "pos": [...], "neg": [...]} as well.

    Equal texts are one passage, equal questions one query. Ids are q1, q2, ... and d1, d2, ... in order; passages that
    are called wrong are judged 0. A passage may be an object with title and text.
    """
    queries: dict[str, str] = {}
    passages: dict[Passage, str] = {}
    for fields, where in found:
        question = next((fields[name] for name in _QUESTION if isinstance(fields.get(name), str)), None)
        right, wrong = _passages(fields, _RIGHT), _passages(fields, _WRONG)
        if question is None or not right:
            collector.note("unreadable-line", where)
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


def _passages(fields: Mapping[str, Any], names: Iterable[str]) -> list[Passage]:
    found: Any = next((fields[name] for name in names if fields.get(name) is not None), [])
    title = fields.get("title")
    passages = []
    for entry in found if isinstance(found, list) else [found]:
        if isinstance(entry, str):
            passages.append(Passage(entry, title if isinstance(title, str) and not isinstance(found, list) else ""))
        elif isinstance(entry, dict) and isinstance(entry.get("text"), str):
            passages.append(Passage(entry["text"], str(entry.get("title") or "")))
    return passages
