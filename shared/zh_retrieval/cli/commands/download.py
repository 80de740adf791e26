"""`zh-retrieval download`: fetch and verify snapshots."""

from __future__ import annotations

import argparse
import sys

from zh_retrieval.cli.flags import add_hub_flags, load_options
from zh_retrieval.errors import ConfigError
from zh_retrieval.options import LoadOptions
from zh_retrieval.recipes.registry import get_spec

HELP = "download models and verify them; resumes"


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument("models", nargs="+", metavar="MODEL")
    add_hub_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Download every model, then print where each is."""
    from zh_retrieval.hub.download import fetch

    for name in arguments.models:
        if "=" in name:
            raise ConfigError(f"{name[:200]!r} names a folder of your own: there is nothing to download.")
    specs = [get_spec(name) for name in arguments.models]
    cache_dir = LoadOptions.given(**load_options(arguments)).cache_dir
    for spec in specs:
        folder = fetch(spec, revision=arguments.revision, cache_dir=cache_dir, show_progress=sys.stderr is not None)
        print(f"{spec.name}\t{folder}")
    return 0
