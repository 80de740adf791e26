"""Quality against cost as SVG: in the page, and as a picture for a slide."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from zh_retrieval.evaluation.report.language import text
from zh_retrieval.evaluation.results import Evaluation, SystemResult

WIDTH, HEIGHT = 960, 540
_LEFT, _RIGHT, _TOP, _BOTTOM = 80, 40, 70, 70
_LINE = 17  # pixels between labels that would overlap
_FONT = "font-family=\"system-ui, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', 'DejaVu Sans', sans-serif\""
_COLOURS = ("#2f6fde", "#d9632b", "#2a9d6a", "#a651c9", "#c7902b", "#d0447c", "#3a9fb5", "#77808f")


def plot(evaluation: Evaluation, *, ink: str = "currentColor", paper: str | None = None) -> str:
    """Return SVG of 960 x 540: milliseconds a query (logarithmic) across, the main metric up, 95 % as bars.

    A dashed line leads from a first stage to what reranks it. Systems whose time was not measured are left out; ""
    where none was.

    Args:
        evaluation: What was found.
        ink: Colour of text and lines.
        paper: Colour behind; None lets through what is there.
    """
    shown = [result for result in evaluation.results if result.costs.ms_per_query]
    if not shown:
        return ""
    axes = _Axes(evaluation, shown)
    parts = [*_frame(evaluation, axes), *_rerank_lines(shown, axes), *_systems(shown, axes)]
    behind = f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{paper}"/>' if paper else ""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        f'role="img" aria-label="{text(_title(evaluation))}" {_FONT} font-size="14" fill="{ink}" color="{ink}">'
        f"{behind}{''.join(parts)}</svg>"
    )


class _Axes:
    """Milliseconds and values to pixels."""

    def __init__(self, evaluation: Evaluation, shown: Sequence[SystemResult]) -> None:
        self.metric = evaluation.main
        times = [math.log10(result.costs.ms_per_query or 1) for result in shown]
        self.low_ms, self.high_ms = math.floor(min(times)), math.ceil(max(times) + 0.05)
        ends = [end for result in shown for end in self.interval(result)]
        margin = max(0.02, (max(ends) - min(ends)) * 0.1)
        self.low, self.high = max(0.0, min(ends) - margin), min(1.0, max(ends) + margin)

    def interval(self, result: SystemResult) -> tuple[float, float]:
        low, high = result.intervals[self.metric]
        mean = result.metrics[self.metric]
        return (low, high) if math.isfinite(low) and math.isfinite(high) else (mean, mean)

    def x(self, ms: float) -> float:
        share = (math.log10(ms) - self.low_ms) / (self.high_ms - self.low_ms)
        return _LEFT + share * (WIDTH - _LEFT - _RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - _BOTTOM - (value - self.low) / (self.high - self.low) * (HEIGHT - _TOP - _BOTTOM)

    def place(self, result: SystemResult) -> tuple[float, float]:
        return self.x(result.costs.ms_per_query or 1), self.y(result.metrics[self.metric])


def _title(evaluation: Evaluation) -> str:
    made_up = " (SYNTHETIC questions 合成问题)" if evaluation.dataset.synthetic else ""
    questions = f"{len(evaluation.dataset.judged)} questions 个问题"
    return f"{_short(evaluation.dataset.name)}{made_up}: {evaluation.main}, {questions}"


def _frame(evaluation: Evaluation, axes: _Axes) -> Iterator[str]:
    yield _text(_LEFT, 34, _title(evaluation), "start", 18)
    bottom = HEIGHT - _BOTTOM
    for value in _ticks(axes.low, axes.high):
        y = axes.y(value)
        yield f'<path d="M{_LEFT} {y:.1f}H{WIDTH - _RIGHT}" stroke="currentColor" opacity=".15"/>'
        yield _text(_LEFT - 8, y + 5, f"{value:.3g}", "end")
    for exponent in range(axes.low_ms, axes.high_ms + 1):
        x = axes.x(10**exponent)
        yield f'<path d="M{x:.1f} {_TOP}V{bottom}" stroke="currentColor" opacity=".15"/>'
        yield _text(x, bottom + 22, f"{10**exponent:g}", "middle")
    yield _text((_LEFT + WIDTH - _RIGHT) / 2, HEIGHT - 18, "milliseconds a query 每次查询毫秒", "middle")
    yield _text(_LEFT, _TOP - 10, evaluation.main, "start")


def _rerank_lines(shown: Sequence[SystemResult], axes: _Axes) -> Iterator[str]:
    places = {result.name: axes.place(result) for result in shown}
    for result in shown:
        if result.base in places:
            (x1, y1), (x2, y2) = places[result.base], places[result.name]
            yield f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="currentColor" stroke-dasharray="4 4" '
            yield 'opacity=".5"/>'


def _systems(shown: Sequence[SystemResult], axes: _Axes) -> Iterator[str]:
    taken: list[tuple[float, float]] = []
    for number, result in enumerate(shown):
        colour = _COLOURS[number % len(_COLOURS)]
        x, y = axes.place(result)
        low, high = (axes.y(end) for end in axes.interval(result))
        yield f'<path d="M{x:.1f} {low:.1f}V{high:.1f}" stroke="{colour}" stroke-width="2"/>'
        yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="6" fill="{colour}"/>'
        label = y + 5
        while any(abs(label - other) < _LINE and abs(x - beside) < 330 for beside, other in taken):
            label += _LINE
        taken.append((x, label))
        right = x < WIDTH * 0.6
        yield _text(x + 12 if right else x - 12, label, _short(result.name), "start" if right else "end", 14, colour)


def _short(name: str) -> str:
    return name if len(name) <= 46 else name[:45] + "…"


def _text(x: float, y: float, content: str, anchor: str, size: int = 14, colour: str = "") -> str:
    fill = f' fill="{colour}"' if colour else ""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{fill}>{text(content)}</text>'


def _ticks(low: float, high: float) -> list[float]:
    step = next(size for size in (0.01, 0.02, 0.05, 0.1, 0.2, 0.5) if (high - low) / size <= 7)
    return [step * number for number in range(math.ceil(low / step), math.floor(high / step) + 1)]
