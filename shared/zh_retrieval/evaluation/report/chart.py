"""Quality and cost of every system as SVG, a row each: in the page, and as a picture for a slide."""

from __future__ import annotations

import math
from typing import Any

from zh_retrieval.evaluation.report.language import Language
from zh_retrieval.evaluation.report.rendering import number, rendered
from zh_retrieval.evaluation.results import Evaluation, SystemResult
from zh_retrieval.table import fit, width

WIDTH, HEIGHT = 960, 540
_TOP, _BOTTOM = 86, 44
_TALLEST, _LOWEST = 54, 38  # pixels of a row
_QUALITY = (270, 560)  # where the scale of the main measure is, between the names and its values
_VALUES = 620  # where the values end
_COST = (660, 880)  # where bars of milliseconds are, before their numbers
_NAME = 33  # columns of a name
_BLUE, _ORANGE = "#3f7be0", "#d97a2b"


def chart(evaluation: Evaluation, language: Language, *, ink: str = "currentColor", paper: str | None = None) -> str:
    """Return SVG, 960 wide: the main measure with its 95 % interval, and milliseconds a query.

    On paper it is at least 540 high, a slide's form; without, as high as its rows. The best system is the first row.
    Blue is a first stage, orange what reranks one. Bars of time are logarithmic; a system whose time was not measured
    has none.

    Args:
        evaluation: What was found.
        language: Of title and headings.
        ink: Colour of text.
        paper: Colour behind; None lets through what is there.
    """
    ranked = evaluation.ranked()
    pitch = min(_TALLEST, max(_LOWEST, (HEIGHT - _TOP - _BOTTOM) / len(ranked)))
    needed = math.ceil(_TOP + pitch * len(ranked) + _BOTTOM)
    height = max(HEIGHT, needed) if paper else needed  # of a slide; a page goes on below
    scale, slowest = _Scale(evaluation), _Times(ranked)
    zh = language == "zh"
    return rendered(
        "chart.svg",
        width=WIDTH, height=height, bottom=round(_TOP + pitch * len(ranked)), ink=ink, paper=paper,
        title=_title(evaluation, zh=zh),
        quality={
            "left": _QUALITY[0], "right": _VALUES, "ticks": scale.ticks(),
            "heading": f"{evaluation.main}，95 % 区间" if zh else f"{evaluation.main}, 95 % interval",
        },
        cost={"left": _COST[0], "heading": "每次查询毫秒（对数）" if zh else "ms a query (logarithmic)"},
        rows=[
            _row(evaluation, result, round(_TOP + pitch * (place + 0.5)), scale, slowest)
            for place, result in enumerate(ranked)
        ],
    )  # fmt: skip


def _title(evaluation: Evaluation, *, zh: bool) -> str:
    data, questions = evaluation.dataset, len(evaluation.dataset.judged)
    name = fit(data.name, min(50, width(data.name))).strip()
    if zh:
        return f"{name}{'（合成问题 SYNTHETIC）' if data.synthetic else ''}：{questions} 个问题"
    return f"{name}{' (SYNTHETIC questions)' if data.synthetic else ''}: {questions} questions"


def _row(evaluation: Evaluation, result: SystemResult, y: int, scale: _Scale, times: _Times) -> dict[str, Any]:
    low, high = scale.interval(result)
    ms = result.costs.ms_per_query
    return {
        "y": y, "name": _name(result), "take": result.name == evaluation.conclusion.take,
        "colour": _ORANGE if result.base else _BLUE, "low": scale.x(low), "high": scale.x(high),
        "x": scale.x(result.metrics[evaluation.main]), "value": f"{result.metrics[evaluation.main]:.3f}",
        "bar": times.length(ms), "ms": number(ms),
    }  # fmt: skip


def _name(result: SystemResult) -> list[dict[str, Any]]:
    """Return the lines of a name: what reranks stands below its first stage."""
    parts = [result.name]
    if result.base and result.name.startswith(f"{result.base} + "):
        parts = [result.base, result.name[len(result.base) + 1 :]]
    return [
        {"text": fit(part, min(_NAME, width(part))).strip(), "dy": 5 + 17 * place - 8 * (len(parts) - 1)}
        for place, part in enumerate(parts)
    ]


class _Scale:
    """Values of the main measure to pixels."""

    def __init__(self, evaluation: Evaluation) -> None:
        self._metric = evaluation.main
        ends = [end for result in evaluation.results for end in self.interval(result)]
        margin = max(0.02, (max(ends) - min(ends)) * 0.08)
        self._low, self._high = max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)

    def interval(self, result: SystemResult) -> tuple[float, float]:
        low, high = result.intervals[self._metric]
        mean = result.metrics[self._metric]
        return (low, high) if math.isfinite(low) and math.isfinite(high) else (mean, mean)

    def x(self, value: float) -> float:
        left, right = _QUALITY
        return round(left + (value - self._low) / (self._high - self._low) * (right - left), 1)

    def ticks(self) -> list[dict[str, Any]]:
        span = self._high - self._low
        step = next(size for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if span / size <= 5)
        first, last = math.ceil(self._low / step), math.floor(self._high / step)
        return [{"x": self.x(step * n), "text": f"{step * n:.3g}"} for n in range(first, last + 1)]


class _Times:
    """Milliseconds to lengths of bars."""

    def __init__(self, results: list[SystemResult]) -> None:
        known = [math.log10(result.costs.ms_per_query) for result in results if result.costs.ms_per_query]
        self._low = math.floor(min(known, default=0.0)) - 0.3
        self._high = max(known, default=1.0)

    def length(self, ms: float | None) -> float:
        if not ms:
            return 0.0
        left, right = _COST
        return round((math.log10(ms) - self._low) / (self._high - self._low) * (right - left), 1)
