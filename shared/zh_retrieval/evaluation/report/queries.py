"""Which questions gained and which lost, with the passages that were found."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from zh_retrieval.evaluation.results import Comparison, Evaluation, SystemResult

SHOWN = 10
"""Questions shown of each comparison that gained most, and as many that lost most."""
_PASSAGES = 3
_LONGEST = 300  # characters of a passage


def changes(evaluation: Evaluation, comparison: Comparison) -> list[dict[str, Any]]:
    """Return the questions that changed most between the two systems of a comparison, gained and lost, for a template.

    A group is {"english", "chinese", "questions"}; a question {"id", "text", "before", "now", "tone", "sides"}; a side
    {"name", "entries"}, whose name is None for the right passages.
    """
    by_name = {result.name: result for result in evaluation.results}
    system, baseline = by_name[comparison.system], by_name[comparison.baseline]
    values, before = system.per_query[comparison.metric], baseline.per_query[comparison.metric]
    ordered = sorted(values, key=lambda query: before[query] - values[query])  # most gained first; stable
    gained = [query for query in ordered if values[query] > before[query]][:SHOWN]
    lost = [query for query in reversed(ordered) if values[query] < before[query]][:SHOWN]
    groups = (
        (f"{comparison.better} questions gained", f"{comparison.better} 个问题变好", gained),
        (f"{comparison.worse} questions lost", f"{comparison.worse} 个问题变差", lost),
    )
    return [
        {
            "english": english,
            "chinese": chinese,
            "questions": [_question(evaluation, query, system, baseline) for query in found],
        }
        for english, chinese, found in groups
        if found
    ]


def _question(evaluation: Evaluation, query: str, system: SystemResult, baseline: SystemResult) -> dict[str, Any]:
    before, now = (result.per_query[evaluation.main][query] for result in (baseline, system))
    sides: list[dict[str, Any]] = [{"name": None, "entries": list(_right(evaluation, query))}]
    sides += [
        {"name": result.name, "entries": list(_found(evaluation, query, result))} for result in (baseline, system)
    ]
    return {
        "id": query, "text": evaluation.dataset.queries[query], "before": before, "now": now,
        "tone": "good" if now > before else "bad", "sides": sides,
    }  # fmt: skip


def _right(evaluation: Evaluation, query: str) -> Iterator[dict[str, Any]]:
    grades = evaluation.dataset.qrels[query]
    for name in sorted(grades, key=lambda name: -grades[name])[:_PASSAGES]:
        if grades[name] > 0:
            yield _passage(evaluation, name)


def _found(evaluation: Evaluation, query: str, result: SystemResult) -> Iterator[dict[str, Any]]:
    grades = evaluation.dataset.qrels[query]
    ids = result.rankings[query].ids
    for name in ids[:_PASSAGES]:
        grade = grades.get(name)
        if grade is None:
            said, tone = ("unjudged", "未标注"), "soft"
        elif grade > 0:
            said, tone = (f"right, grade {grade}", f"正确，等级 {grade}"), "good"
        else:
            said, tone = ("wrong", "错误"), "bad"
        yield {**_passage(evaluation, name), "said": said, "tone": tone}
    first = next((place for place, name in enumerate(ids, 1) if grades.get(name, 0) > 0), None)
    if first is None:
        yield {"id": None, "said": ("no right passage found", "没有找到正确段落"), "tone": "soft"}
    elif first > _PASSAGES:
        yield {"id": None, "said": ("the first right one", "第一个正确的"), "tone": "soft", "place": first}


def _passage(evaluation: Evaluation, name: str) -> dict[str, Any]:
    passage = evaluation.dataset.corpus.get(name)
    whole = passage.joined() if passage else None
    shown = whole if whole is None or len(whole) <= _LONGEST else whole[:_LONGEST] + "…"
    return {"id": name, "text": shown}
