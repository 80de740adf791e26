"""The page: tables of systems, comparisons and faults."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path

from zh_retrieval.evaluation.results import Evaluation, SystemResult

_STYLE = """
body { font: 15px/1.5 system-ui, "PingFang SC", "Microsoft YaHei", sans-serif; margin: 2rem auto; max-width: 70rem; }
table { border-collapse: collapse; } th, td { padding: .3rem .8rem; text-align: right; border-bottom: 1px solid #ccc; }
th:first-child, td:first-child { text-align: left; }
"""


def write(evaluation: Evaluation, path: Path) -> None:
    """Write the report as one HTML file, in English and Chinese."""
    path.write_text(render(evaluation), encoding="utf-8")


def render(evaluation: Evaluation) -> str:
    """Return the page."""
    data = evaluation.dataset
    title = f"{data.name}: {len(data.judged)} questions 个问题, {len(data.corpus)} passages 个段落"
    notice = (
        "<p><b>Synthetic questions: no person wrote them. 合成问题，并非真人提问。</b></p>" if data.synthetic else ""
    )
    header = ("System 系统", *evaluation.results[0].metrics, "ms/query 毫秒/次", "passages/s 段落/秒")
    rows = [_row(result) for result in evaluation.results]
    found = [*evaluation.faults, *(fault for result in evaluation.results for fault in result.faults)]
    faults = [
        (entry.kind, f"{entry.count} / {entry.total}", entry.message, ", ".join(entry.examples)) for entry in found
    ]
    said = "".join(
        f"<li>{escape(entry.sentence)}<br>{escape(entry.sentence_zh)}</li>" for entry in evaluation.comparisons
    )
    return (
        f'<!doctype html><html lang="zh"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{_STYLE}</style></head><body><h1>{escape(title)}</h1>{notice}{_table(header, rows)}"
        f"<h2>Comparisons 对比</h2><ul>{said}</ul>"
        f"<h2>Faults 数据问题</h2>{_table(('Fault 问题', 'count 数量', 'meaning 含义', 'examples 例子'), faults)}"
        "</body></html>\n"
    )


def _row(result: SystemResult) -> list[str]:
    costs = (result.costs.ms_per_query, result.costs.passages_per_second)
    values = [
        f"{value:.3f} ({low:.3f} – {high:.3f})"
        for value, (low, high) in zip(result.metrics.values(), result.intervals.values(), strict=True)
    ]
    return [result.name, *values, *("–" if cost is None else f"{cost:.1f}" for cost in costs)]


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{head}</tr>{body}</table>"
