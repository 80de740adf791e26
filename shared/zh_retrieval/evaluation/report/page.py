"""The page: what to take, systems, cost, comparisons, faults, and the questions that changed."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from zh_retrieval.evaluation.report.chart import chart
from zh_retrieval.evaluation.report.language import COLUMNS, SWEEPS, Language, of_locale
from zh_retrieval.evaluation.report.queries import changes
from zh_retrieval.evaluation.report.rendering import rendered
from zh_retrieval.evaluation.report.terminal import reranks
from zh_retrieval.evaluation.results import Evaluation

_SHOWN = ("R@10", "R@100", "RR@10")
_TONES = {"pays": "good", "better": "good", "worse": "bad"}
_SCRIPT = (
    'if(/^zh/i.test(navigator.language)){document.getElementById("chinese").checked=true;'
    'document.documentElement.lang="zh-Hans"}'
)
"""All that the page runs: a Chinese browser shows it in Chinese. Its hash is in the policy; no other script runs."""


def render(evaluation: Evaluation, language: Language | None = None) -> str:
    """Return the page, which loads nothing; readers can change between Chinese and English.

    Args:
        evaluation: What was found.
        language: Which one it opens in. By default Chinese where the locale is, else the browser's: Chinese or English.
    """
    written = language or of_locale()
    script = _SCRIPT if language is None and written == "en" else ""
    data = evaluation.dataset
    faults = [("", fault) for fault in evaluation.faults]
    faults += [(result.name, fault) for result in evaluation.results for fault in result.faults]
    return rendered(
        "page.html",
        evaluation=evaluation, data=data, ranked=evaluation.ranked(), language=written, shown=_shown(evaluation),
        split=f", {data.split}" if data.split else "", measures=list(evaluation.results[0].metrics),
        earlier=any(result.costs.earlier for result in evaluation.results), reranks=reranks(evaluation),
        chart_en=chart(evaluation, "en"), chart_zh=chart(evaluation, "zh"), tones=_TONES, faults=faults,
        comparisons=[(comparison, changes(evaluation, comparison)) for comparison in evaluation.comparisons],
        sweeps=_sweeps(evaluation.sweep), script=script, script_hash=_hash(script),
    )  # fmt: skip


def fragment(evaluation: Evaluation, language: Language | None = None) -> str:
    """Return the conclusion and the table as HTML, for a notebook."""
    return rendered(
        "fragment.html", evaluation=evaluation, ranked=evaluation.ranked(), shown=_shown(evaluation),
        language=language or of_locale(),
    )  # fmt: skip


def _shown(evaluation: Evaluation) -> list[str]:
    """Return the measures that stand beside the main one in the first table; all are in the last."""
    wanted = (*_SHOWN, *evaluation.asked)
    return [name for name in evaluation.results[0].metrics if name in wanted and name != evaluation.main]


def _sweeps(sweep: Mapping[str, Sequence[Mapping[str, Any]]]) -> list[tuple[Any, Any, Any]]:
    return [
        (
            SWEEPS[what], [COLUMNS.get(column, (column, column)) for column in rows[0]],
            [[f"{cell:.3f}" if isinstance(cell, float) else cell for cell in row.values()] for row in rows],
        )
        for what, rows in sweep.items()
        if rows
    ]  # fmt: skip


def _hash(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
