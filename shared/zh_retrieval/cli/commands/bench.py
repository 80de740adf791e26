"""`zh-retrieval bench`: how fast a model is on this machine, beside the peers that are installed."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from zh_retrieval.cli.console import has_terminal, say
from zh_retrieval.cli.flags import add_load_flags, load_options, take_folder
from zh_retrieval.errors import ConfigError
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.catalogue import DEFAULT_BENCH

if TYPE_CHECKING:
    from zh_retrieval.bench.host import Host
    from zh_retrieval.bench.sides import SideSpec
    from zh_retrieval.recipes.spec import ModelSpec

_TABLES = ("throughput", "throughput_even", "latency", "reranking")
_SAME = 0.97  # cosine below which two sides do not compute the same thing; int8 stays above

HELP = "measure a model on this machine: throughput, latency, concurrency, against the peers that are installed"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--model", "-m", default=DEFAULT_BENCH, metavar="NAME[=FOLDER]", help="default: %(default)s")
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
    parser.add_argument("--bulk", type=int, default=400, help="texts of the bulk job behind which queries wait")
    parser.add_argument("--rounds", type=int, default=3, help="turns of every side (default 3)")
    parser.add_argument("--output", "-o", help="write the report as JSON")
    parser.add_argument("--plot", help="write a chart, .svg")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print, write."""
    from zh_retrieval.bench.text import text
    from zh_retrieval.recipes.registry import get_spec

    take_folder(arguments)
    if arguments.plot and not arguments.plot.endswith(".svg"):
        raise ConfigError(f"--plot is {arguments.plot!r}, expected a name that ends in .svg.")
    if arguments.random and arguments.path:
        raise ConfigError("--random writes weights of its own: leave the folder out, or --random.")
    spec = get_spec(arguments.model)
    with _weights(arguments, spec) as folder:
        report = _measure(arguments, spec, *_sides(arguments, spec, folder))
    print(text(report))
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


def _sides(arguments: argparse.Namespace, spec: ModelSpec, folder: Path) -> tuple[list[SideSpec], list[str]]:
    from zh_retrieval.bench.sides import OURS, SideSpec
    from zh_retrieval.engine.hardware import resolve_device

    device = resolve_device(LoadOptions.given(**load_options(arguments)).device)
    wanted, notes = _peers(arguments, spec, device)
    sides = [SideSpec(name, name, spec, folder, device, python=arguments.peers_python) for name in wanted]
    large = (spec.parameters or 0) > 10**9
    default = "auto" if large else ("float32,auto,int8" if device == "cpu" else "float32,auto")
    base = {name: getattr(arguments, name) for name in ("max_batch_tokens", "max_length", "threads")}
    for name in (arguments.variants or default).split(","):
        options = base | ({"quantization": name} if name in ("int8", "int4") else {"dtype": name})
        sides.append(SideSpec(f"{OURS} {name}", OURS, spec, folder, device, options))
    return sides, notes


def _peers(arguments: argparse.Namespace, spec: ModelSpec, device: str) -> tuple[list[str], list[str]]:
    """Return the names of the peers to measure, and a line for each that could be and is not installed."""
    from zh_retrieval.bench import peers
    from zh_retrieval.bench.host import missing_in

    python = arguments.peers_python
    missing = missing_in(python) if python else peers.missing()
    comparable = peers.comparable(spec, device)
    known = [name for name in comparable if missing.get(name) == []]
    if arguments.peers == "all":
        absent = [name for name in comparable if name not in known]
        return known, [f"{name}: not measured, needs {', '.join(missing.get(name, [name]))}" for name in absent]
    wanted = [] if arguments.peers == "none" else arguments.peers.split(",")
    if others := sorted(set(wanted) - set(known)):
        raise ConfigError(f"--peers {', '.join(others)}: not installed, or cannot load {spec.name}. Found: {known}.")
    return wanted, []


def _measure(arguments: argparse.Namespace, spec: ModelSpec, sides: list[SideSpec], notes: list[str]) -> dict[str, Any]:
    from zh_retrieval.bench import machine, measures
    from zh_retrieval.bench.host import Host, SideError

    report: dict[str, Any] = {
        "model": spec.name,
        "weights": "random" if arguments.random else "real",
        "machine": machine.facts(),
        "notes": notes,
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
            _embedding(report, arguments, spec, hosts)
        for row in [row for rows in _TABLES for row in report.get(rows, [])]:
            row["package"], row["options"] = by_name[row["side"]].package, by_name[row["side"]].options
        if spec.task == "embedding":
            _say("concurrency")
            name = next((n for n in hosts if n.endswith(" auto")), next(n for n in hosts if n.startswith("zh-")))
            report["concurrency"] = {"side": name} | measures.concurrency(hosts[name], spec, arguments.bulk)
    return report


def _embedding(report: dict[str, Any], arguments: argparse.Namespace, spec: ModelSpec, hosts: dict[str, Host]) -> None:
    from zh_retrieval.bench import measures, workload

    for name, make in (("throughput", workload.texts), ("throughput_even", workload.even_texts)):
        _say("embedding")
        texts = make(arguments.texts)
        report[name] = measures.throughput(hosts, texts, arguments.rounds)
        if spec.shape:
            measures.shares(report[name], hosts, spec, texts)
        for row in report[name]:
            if row["min_cosine"] < _SAME:
                report["notes"].append(f"{row['side']}: its vectors are others, so its speed says little ({name})")
    _say("latency")
    report["latency"] = measures.latency(hosts, arguments.queries)


def _say(what: str) -> None:
    if has_terminal():
        say(f"{what} …")
