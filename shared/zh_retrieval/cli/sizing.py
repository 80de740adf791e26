"""`zh-retrieval doctor --sizing`: what a model needs here."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict

from zh_retrieval.checks import is_installed
from zh_retrieval.cli.console import say
from zh_retrieval.cli.flags import load_options
from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec

_WRITE = (  # in another process: what writes them holds memory that is not the model's
    "import sys, pathlib; from zh_retrieval.bench.random_weights import write; "
    "from zh_retrieval.recipes.registry import get_spec; write(get_spec(sys.argv[1]), pathlib.Path(sys.argv[2]))"
)


def print_sizing(arguments: argparse.Namespace) -> int:
    """Measure the model of `--sizing`, print what it needs, and return 0.

    Raises:
        ConfigError: `--random` has no shape to go by, or a folder beside it.
        MissingExtraError: `--random` without torch.
    """
    from zh_retrieval.bench.sizing import measure

    spec, options = get_spec(arguments.sizing), load_options(arguments)
    with _weights(spec, arguments) as folder:
        found = measure(spec, options | ({"path": folder} if folder else {}))
    if arguments.json:
        print(json.dumps(asdict(found), ensure_ascii=False, indent=1))
        return 0
    one, random = found.what[:-1] if found.what == "pairs" else "query", ", random weights" if folder else ""
    print(f"{found.model}: {found.dtype} on {found.device}, {found.threads} threads{random}")
    print(f"loaded     in {found.load_seconds:.1f} s")
    if found.memory_bytes is not None:
        print(f"memory     {found.memory_bytes / 1e9:.2f} GB, the most that this process held")
    print(f"{found.what}/s    {found.per_second:.1f} on all threads, measured with {found.count}")
    print(f"a core     {found.per_core_second:.2f} {found.what}/s, by the time that this process computed")
    print(f"one {one:6} {found.query_ms:.1f} ms, the median")
    return 0


@contextmanager
def _weights(spec: ModelSpec, arguments: argparse.Namespace) -> Iterator[str | None]:
    if not arguments.random:
        yield None
        return
    if arguments.path:
        raise ConfigError("--random writes weights of its own: leave the folder out, or --random.")
    if not spec.shape:
        raise ConfigError(f"The entry of {spec.name} has no shape for random weights. Leave --random out.")
    if not is_installed("torch"):
        raise MissingExtraError('torch is not installed. Run: pip install "zh-retrieval[torch]"')
    with tempfile.TemporaryDirectory(prefix="zh-retrieval-sizing-") as folder:
        say(f"writing random weights of {spec.name}'s size")
        subprocess.run([sys.executable, "-c", _WRITE, spec.name, folder], check=True, capture_output=True)
        yield folder
