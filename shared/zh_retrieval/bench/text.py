"""The report as text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from zh_retrieval.table import render


def text(report: dict[str, Any]) -> str:
    """Return the tables of a report, and its notes, one line each."""
    machine = report["machine"]
    lines = [f"{report['model']}, {report['weights']} weights. {machine['processor']}, {machine['threads']} threads"]
    for side, versions in report["versions"].items():
        lines.append(f"{side}: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    for name, lengths in (("throughput", "mixed: 15 to 500"), ("throughput_even", "even: 90 to 135")):
        if rows := report.get(name):
            lines += ["", f"Embedding, lengths {lengths} characters", _throughput(rows)]
    if rows := report.get("latency"):
        lines += ["", "One query of 11 tokens, warm", _latency(rows)]
    if rows := report.get("reranking"):
        lines += ["", "Reranking: pairs of mixed length", _reranking(rows)]
    if found := report.get("concurrency"):
        lines += ["", f"Concurrency, {found['side']}", *_concurrency(found)]
    return "\n".join([*lines, *(f"note: {note}" for note in report["notes"])])


def _throughput(rows: list[dict[str, Any]]) -> str:
    header = "side", "batch", "texts/s", "tokens/s", "ratio", "min cosine", "max diff", "of matrix rate"
    return _table(header, [
        (
            row["side"], str(row["batch_size"] or ""), f"{row['per_second']:.2f}",
            f"{row.get('tokens_per_second', 0):.0f}", f"{row['ratio']:.2f}x", f"{row['min_cosine']:.5f}",
            f"{row['max_difference']:.1e}", _percent(row.get("share_of_matrix_rate")),
        )
        for row in rows
    ])  # fmt: skip


def _latency(rows: list[dict[str, Any]]) -> str:
    body = [
        (row["side"], f"{row['milliseconds']:.1f} ms", f"{row['ratio']:.2f}x", f"{row['slowest_ms']:.1f} ms")
        for row in rows
    ]
    return _table(("side", "median", "ratio", "slowest"), body)


def _reranking(rows: list[dict[str, Any]]) -> str:
    body = [
        (
            row["side"], f"{row['per_second']:.2f}", f"{row['ratio']:.2f}x", f"{row['max_difference']:.1e}",
            f"{row['widest_swap']:.1e}",
        )
        for row in rows
    ]  # fmt: skip
    return _table(("side", "pairs/s", "ratio", "max diff", "widest swap"), body)


def _concurrency(found: dict[str, Any]) -> list[str]:
    lines = []
    for kind in ("gathered", "gathered_with_instruction"):
        if row := found.get(kind):
            with_it = " with the instruction" if kind != "gathered" else ""
            lines.append(
                f"{row['queries']} queries of 8 to 10 tokens{with_it} at once: {row['together_s']:.2f} s, one after "
                f"another {row['one_by_one_s']:.2f} s ({row['speedup']:.2f}x); event loop late by at most "
                f"{row['heartbeat_late_ms']:.1f} ms"
            )
    bulk = found["behind_bulk"]
    lines.append(
        f"a query every 150 ms during a bulk job: median {bulk['query_wait_s'] * 1000:.0f} ms, 95th percentile "
        f"{bulk['query_wait_p95_s'] * 1000:.0f} ms (alone {bulk['query_alone_s'] * 1000:.0f} ms), the job keeps "
        f"{bulk['job_keeps']:.0%} of its rate; event loop late by at most {bulk['heartbeat_late_ms']:.1f} ms"
    )
    lines.append(f"scheduler, one synchronous call: {found['scheduler_overhead_ms']:.3f} ms")
    return lines


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return render(header, rows, [40] * len(header))
