"""`zh-retrieval models`: what there is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from zh_retrieval.recipes.registry import all_specs
from zh_retrieval.recipes.situations import SITUATIONS, fitting
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.table import render

HELP = "list the models"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--for", dest="situations", action="append", default=[], choices=tuple(SITUATIONS), metavar="SITUATION",
        help=f"only those that fit, the smallest first: {', '.join(SITUATIONS)}; repeatable, all must hold",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    wanted = arguments.situations
    entries = [describe(spec) for spec in (fitting(all_specs(), wanted) if wanted else all_specs())]
    if arguments.json:
        print(json.dumps(entries, ensure_ascii=False, indent=1))
        return 0
    header = ("name", "task", "dim", "max tokens", "size", "licence", "hub id")
    columns = ("name", "task", "dimension", "max_tokens", "size", "licence", "hub_id")
    rows = [[str(entry[column] or "-") for column in columns] for entry in entries]
    print(render(header, rows, (30, 10, 5, 10, 8, 42, 42)))
    for word in wanted:
        print(f"\n{word}: {SITUATIONS[word].what}; {SITUATIONS[word].rule}.", end="")
    print("\nsize: weights at 2 bytes each; the built-in model ships in the package (4-bit blocks, 22 MB).")
    return 0


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return one row: what a user chooses a model by."""
    return {
        "name": spec.name,
        "task": spec.task,
        "dimension": spec.dimension,
        "max_tokens": spec.max_length,
        "size": f"{spec.parameters * 2 / 1e9:.2f} GB" if spec.parameters else None,
        "licence": spec.license or None,
        "hub_id": _place(spec),
    }


def _place(spec: ModelSpec) -> str:
    if not spec.sources:
        return "path= only"
    return "built in" if spec.sources[0].hub == "builtin" else spec.sources[0].id
