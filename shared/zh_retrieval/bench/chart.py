"""The report as an SVG of horizontal bars."""

from __future__ import annotations

from typing import Any
from xml.sax.saxutils import escape

_WIDTH, _LEFT, _ROW, _BARS = 760, 220, 26, 420
_OURS, _PEER = "#2563eb", "#9ca3af"


def svg(report: dict[str, Any]) -> str:
    """Return the chart of a report: one group of bars for each measure."""
    groups = [
        ("embedding mixed lengths, texts per second (more is better)", report.get("throughput"), "per_second"),
        ("embedding even lengths, texts per second (more is better)", report.get("throughput_even"), "per_second"),
        ("one query, milliseconds (less is better)", report.get("latency"), "milliseconds"),
        ("reranking, pairs per second (more is better)", report.get("reranking"), "per_second"),
    ]
    parts: list[str] = []
    y = 30
    parts.append(_text(10, y, f"{report['model']}, {report['machine']['processor']}", 15))
    for title, rows, value in groups:
        if not rows:
            continue
        y += 38
        parts.append(_text(10, y, title, 13))
        longest = max(row[value] for row in rows)
        for row in rows:
            y += _ROW
            parts += _bar(y, row, row[value], longest)
    height = y + 24
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{_WIDTH}" height="{height}" font-family="sans-serif">'
    return "\n".join([head, f'<rect width="{_WIDTH}" height="{height}" fill="white"/>', *parts, "</svg>\n"])


def _bar(y: int, row: dict[str, Any], value: float, longest: float) -> list[str]:
    colour = _OURS if row["package"] == "zh-retrieval" else _PEER
    width = max(1.0, _BARS * value / longest)
    return [
        _text(20, y, row["side"], 12),
        f'<rect x="{_LEFT}" y="{y - 13}" width="{width:.1f}" height="17" fill="{colour}"/>',
        _text(_LEFT + int(width) + 6, y, f"{value:.1f} ({row['ratio']:.2f}x)", 12),
    ]


def _text(x: int, y: int, text: str, size: int) -> str:
    return f'<text x="{x}" y="{y}" font-size="{size}">{escape(text)}</text>'
