"""Which questions gained and which lost, with the passages that were found."""

from __future__ import annotations

from collections.abc import Iterator

from zh_retrieval.evaluation.report.language import both, text
from zh_retrieval.evaluation.results import Comparison, Evaluation, SystemResult

SHOWN = 10
"""Questions shown of each comparison that gained most, and as many that lost most."""
_PASSAGES = 3
_LONGEST = 300  # characters of a passage


def changes(evaluation: Evaluation, comparison: Comparison) -> str:
    """Return the questions that changed most between the two systems of a comparison, to unfold."""
    by_name = {result.name: result for result in evaluation.results}
    system, baseline = by_name[comparison.system], by_name[comparison.baseline]
    values, before = system.per_query[comparison.metric], baseline.per_query[comparison.metric]
    ordered = sorted(values, key=lambda query: before[query] - values[query])  # most gained first; stable
    gained = [query for query in ordered if values[query] > before[query]][:SHOWN]
    lost = [query for query in reversed(ordered) if values[query] < before[query]][:SHOWN]
    return "".join(
        f"<details><summary>{heading}</summary>{''.join(_question(evaluation, q, system, baseline) for q in found)}"
        "</details>"
        for heading, found in (
            (both(f"{comparison.better} questions gained", f"{comparison.better} 个问题变好"), gained),
            (both(f"{comparison.worse} questions lost", f"{comparison.worse} 个问题变差"), lost),
        )
        if found
    )


def _question(evaluation: Evaluation, query: str, system: SystemResult, baseline: SystemResult) -> str:
    before, now = (result.per_query[evaluation.main][query] for result in (baseline, system))
    tone = "good" if now > before else "bad"
    sides = "".join(
        f"<div><h4>{text(result.name)}</h4><ol>{''.join(_found(evaluation, query, result))}</ol></div>"
        for result in (baseline, system)
    )
    return (
        f'<details><summary><b class="{tone}">{before:.3f} → {now:.3f}</b> {text(evaluation.dataset.queries[query])} '
        f'<span class="soft">{text(query)}</span></summary><div class="sides"><div><h4>'
        f"{both('Right passages', '正确段落')}</h4><ol>{''.join(_right(evaluation, query))}</ol></div>{sides}</div>"
        "</details>"
    )


def _right(evaluation: Evaluation, query: str) -> Iterator[str]:
    grades = evaluation.dataset.qrels[query]
    for name in sorted(grades, key=lambda name: -grades[name])[:_PASSAGES]:
        if grades[name] > 0:
            yield f"<li>{_passage(evaluation, name)}</li>"


def _found(evaluation: Evaluation, query: str, result: SystemResult) -> Iterator[str]:
    grades = evaluation.dataset.qrels[query]
    ids = result.rankings[query].ids
    for name in ids[:_PASSAGES]:
        grade = grades.get(name)
        if grade is None:
            said = f'<b class="soft">{both("unjudged", "未标注")}</b>'
        else:
            word = both(f"right, grade {grade}", f"正确，等级 {grade}") if grade > 0 else both("wrong", "错误")
            said = f'<b class="{"good" if grade > 0 else "bad"}">{word}</b>'
        yield f"<li>{said} {_passage(evaluation, name)}</li>"
    first = next((place for place, name in enumerate(ids, 1) if grades.get(name, 0) > 0), None)
    if first is None:
        yield f'<li class="soft">{both("no right passage found", "没有找到正确段落")}</li>'
    elif first > _PASSAGES:
        yield f'<li class="soft" value="{first}">{both("the first right one", "第一个正确的")}</li>'


def _passage(evaluation: Evaluation, name: str) -> str:
    passage = evaluation.dataset.corpus.get(name)
    if passage is None:
        return f'<span class="soft">{text(name)} {both("(not in the corpus)", "（不在语料中）")}</span>'
    whole = passage.joined()
    shown = whole if len(whole) <= _LONGEST else whole[:_LONGEST] + "…"
    return f'<span class="soft">{text(name)}</span><div class="passage">{text(shown)}</div>'
