"""`zh-retrieval bench`: how fast a model is on this machine, beside the peers that are installed."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.cli.console import has_terminal, say
from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.cli.table import render
from zh_retrieval.errors import ConfigError
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.catalogue import DEFAULT_BENCH

if TYPE_CHECKING:
    from zh_retrieval.bench.host import Host
    from zh_retrieval.bench.sides import SideSpec
    from zh_retrieval.recipes.spec import ModelSpec

_SAME = 0.97  # cosine below which two sides do not compute the same thing; int8 stays above

HELP = "measure a model on this machine: throughput, latency, concurrency, against the peers that are installed"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--model", "-m", default=DEFAULT_BENCH, help="default: %(default)s")
    parser.add_argument("--random", action="store_true", help="random weights of the real size: nothing is downloaded")
    parser.add_argument(
        "--peers", default="all", help="all (of those that are installed), none, or their names with commas"
    )
    parser.add_argument(
        "--peers-python", help="Python of another environment that has the peers, and this package without its own"
    )
    parser.add_argument(
        "--variants", help="ours, with commas: float32, bfloat16, float16, auto, int8, int4 (default: what fits)"
    )
    parser.add_argument("--texts", type=int, default=64, help="texts of 15 to 512 tokens (default 64)")
    parser.add_argument("--pairs", type=int, default=100, help="pairs of a reranker (default 100)")
    parser.add_argument("--queries", type=int, default=50, help="short queries for the latency (default 50)")
    parser.add_argument("--bulk", type=int, default=2000, help="texts of the bulk job behind which queries wait")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side (default 3)")
    parser.add_argument("--output", "-o", help="write the report as JSON")
    parser.add_argument("--plot", help="write a chart, .svg")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    from zh_retrieval.recipes.registry import get_spec

    if arguments.plot and not arguments.plot.endswith(".svg"):
        raise ConfigError(f"--plot is {arguments.plot!r}, expected a name that ends in .svg.")
    spec = get_spec(arguments.model)
    with _weights(arguments, spec) as folder:
        report = _measure(arguments, spec, _sides(arguments, spec, folder))
    _print(report)
    if arguments.output:
        Path(arguments.output).write_text(json.dumps(report, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    if arguments.plot:
        from zh_retrieval.bench.chart import svg

        Path(arguments.plot).write_text(svg(report), encoding="utf-8")
    return 0


@contextmanager
def _weights(arguments: argparse.Namespace, spec: ModelSpec) -> Iterator[Path]:
    if not arguments.random:
        import zh_retrieval

        options = load_options(arguments)
        load: Any = zh_retrieval.load_encoder if spec.task == "embedding" else zh_retrieval.load_reranker
        with load(spec, **options) as model:
            folder = model.folder
        yield folder
        return
    from zh_retrieval.bench import random_weights

    with tempfile.TemporaryDirectory(prefix="zh-retrieval-bench-") as name:
        _say(f"writing random weights of {spec.name}'s size")
        random_weights.write(spec, Path(name))
        yield Path(name)


def _sides(arguments: argparse.Namespace, spec: ModelSpec, folder: Path) -> list[SideSpec]:
    from zh_retrieval.bench import peers
    from zh_retrieval.bench.host import peers_of
    from zh_retrieval.bench.sides import OURS, SideSpec
    from zh_retrieval.engine.hardware import resolve_device

    device = resolve_device(LoadOptions.given(**load_options(arguments)).device)
    python = arguments.peers_python
    known = peers.comparable(spec, device, peers_of(python) if python else peers.installed())
    wanted = {"all": known, "none": []}.get(arguments.peers, arguments.peers.split(","))
    if absent := sorted(set(wanted) - set(known)):
        raise ConfigError(f"--peers {', '.join(absent)}: not installed, or cannot load {spec.name}. Found: {known}.")
    sides = [SideSpec(name, name, spec, folder, device, python=python) for name in wanted]
    large = (spec.parameters or 0) > 10**9
    default = "auto" if large else ("float32,auto,int8" if device == "cpu" else "float32,auto")
    base = {name: getattr(arguments, name) for name in ("max_batch_tokens", "max_length", "threads")}
    for name in (arguments.variants or default).split(","):
        options = base | ({"quantization": name} if name in ("int8", "int4") else {"dtype": name})
        sides.append(SideSpec(f"{OURS} {name}", OURS, spec, folder, device, options))
    return sides


def _measure(arguments: argparse.Namespace, spec: ModelSpec, sides: list[SideSpec]) -> dict[str, Any]:
    from zh_retrieval.bench import machine, measures
    from zh_retrieval.bench.host import Host, SideError

    report: dict[str, Any] = {
        "model": spec.name,
        "weights": "random" if arguments.random else "real",
        "machine": machine.facts(),
        "notes": [],
    }
    by_name = {side.name: side for side in sides}
    hosts: dict[str, Host] = {}
    with ExitStack() as stack:
        for side in sides:
            _say(f"loading {side.name}")
            try:
                hosts[side.name] = Host(side)
            except SideError as error:
                report["notes"].append(str(error))
                continue
            stack.callback(hosts[side.name].close)
        report["versions"] = {name: host.versions for name, host in hosts.items()}
        if not any(by_name[name].package == "zh-retrieval" for name in hosts):
            raise ConfigError(f"Nothing to measure. {' '.join(report['notes'])}")
        if spec.task == "reranking":
            _say("reranking")
            report["reranking"] = measures.reranking(hosts, arguments.pairs, arguments.rounds)
        else:
            _say("embedding")
            report["throughput"] = measures.throughput(hosts, arguments.texts, arguments.rounds)
            _say("latency")
            report["latency"] = measures.latency(hosts, arguments.queries)
        for row in report.get("throughput", []):
            if row["min_cosine"] < _SAME:
                report["notes"].append(f"{row['side']}: its vectors are others, so its speed says little")
        for row in [*report.get("throughput", []), *report.get("latency", []), *report.get("reranking", [])]:
            row["package"], row["options"] = by_name[row["side"]].package, by_name[row["side"]].options
        if spec.task == "embedding":
            if spec.shape:
                measures.shares(report["throughput"], hosts, spec, arguments.texts)
            _say("concurrency")
            name = next((n for n in hosts if n.endswith(" auto")), next(n for n in hosts if n.startswith("zh-")))
            report["concurrency"] = {"side": name} | measures.concurrency(hosts[name], spec, arguments.bulk)
    return report


def _print(report: dict[str, Any]) -> None:
    machine = report["machine"]
    print(f"{report['model']}, {report['weights']} weights. {machine['processor']}, {machine['threads']} threads")
    for side, versions in report["versions"].items():
        print(f"{side}: {', '.join(f'{name} {version}' for name, version in versions.items())}")
    if rows := report.get("throughput"):
        print("\nEmbedding: texts of 15 to 512 tokens")
        body = [
            (
                row["side"],
                f"{row['per_second']:.2f}",
                f"{row.get('tokens_per_second', 0):.0f}",
                f"{row['ratio']:.2f}x",
                f"{row['min_cosine']:.5f}",
                f"{row['max_difference']:.1e}",
                _percent(row.get("share_of_matrix_rate")),
            )
            for row in rows
        ]
        print(_table(("side", "texts/s", "tokens/s", "ratio", "min cosine", "max diff", "of matrix rate"), body))
    if rows := report.get("latency"):
        print("\nOne query of 11 tokens, warm")
        body_ms = [
            (row["side"], f"{row['milliseconds']:.1f} ms", f"{row['ratio']:.2f}x", f"{row['slowest_ms']:.1f} ms")
            for row in rows
        ]
        print(_table(("side", "median", "ratio", "slowest"), body_ms))
    if rows := report.get("reranking"):
        print("\nReranking: pairs of mixed length")
        body_rr = [
            (
                row["side"], f"{row['per_second']:.2f}", f"{row['ratio']:.2f}x", f"{row['max_difference']:.1e}",
                f"{row['widest_swap']:.1e}",
            )
            for row in rows
        ]  # fmt: skip
        print(_table(("side", "pairs/s", "ratio", "max diff", "widest swap"), body_rr))
    if found := report.get("concurrency"):
        bulk = found["behind_bulk"]
        print(f"\nConcurrency, {found['side']}")
        for kind in ("gathered", "gathered_with_instruction"):
            if row := found.get(kind):
                with_it = " with the instruction" if kind != "gathered" else ""
                print(
                    f"{row['queries']} queries of 8 to 10 tokens{with_it} at once: {row['together_s']:.2f} s, one "
                    f"after another {row['one_by_one_s']:.2f} s ({row['speedup']:.2f}x); event loop late by at most "
                    f"{row['heartbeat_late_ms']:.1f} ms"
                )
        print(
            f"a query during a bulk job: {bulk['query_wait_s']:.2f} s, a bulk batch {bulk['bulk_batch_s']:.2f} s; "
            f"event loop late by at most {bulk['heartbeat_late_ms']:.1f} ms"
        )
        print(f"scheduler, one synchronous call: {found['scheduler_overhead_ms']:.3f} ms")
    for note in report["notes"]:
        print(f"note: {note}")


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:.0%}"


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return render(header, rows, [40] * len(header))


def _say(what: str) -> None:
    if has_terminal():
        say(f"{what} …")
