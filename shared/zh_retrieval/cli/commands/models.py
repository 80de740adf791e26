"""`zh-retrieval models`: what there is."""

from __future__ import annotations

import argparse
import json
from typing import Any

from zh_retrieval.cli.table import render
from zh_retrieval.recipes.catalogue import MODELS
from zh_retrieval.recipes.spec import ModelSpec

HELP = "list the models"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("--json", action="store_true", help="machine-readable")


def run(arguments: argparse.Namespace) -> int:
    """Print the table."""
    entries = [describe(spec) for spec in MODELS]
    if arguments.json:
        print(json.dumps(entries, ensure_ascii=False, indent=1))
        return 0
    header = ("name", "task", "dim", "max tokens", "size", "licence", "hub id")
    rows = [
        (
            entry["name"], entry["task"], str(entry["dimension"] or "-"), str(entry["max_tokens"]), entry["size"],
            entry["licence"], entry["hub_id"],
        )
        for entry in entries
    ]  # fmt: skip
    print(render(header, rows, (30, 10, 5, 10, 8, 42, 42)))
    print("\nsize: weights at 2 bytes each; the built-in model ships in the package (4-bit blocks, 22 MB).")
    return 0


def describe(spec: ModelSpec) -> dict[str, Any]:
    """Return one row: what a user chooses a model by."""
    return {
        "name": spec.name,
        "task": spec.task,
        "dimension": spec.dimension,
        "max_tokens": spec.max_length,
        "size": f"{spec.parameters * 2 / 1e9:.2f} GB",
        "licence": spec.license,
        "hub_id": "built in" if spec.sources[0].hub == "builtin" else spec.sources[0].id,
    }
