"""The load options as flags, the same for every command."""

from __future__ import annotations

import argparse
from typing import Any, get_args

from zh_retrieval.options import ENVIRONMENT, Dtype, Overflow, Quantization


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each option of `load_encoder` that a shell can give."""
    group = parser.add_argument_group("model options")
    group.add_argument("--path", help="folder of weights, instead of the hub")
    group.add_argument("--device", default="auto", help=f"auto, cpu, cuda, cuda:N, mps ({ENVIRONMENT['device']})")
    group.add_argument("--dtype", default="auto", choices=get_args(Dtype), help=ENVIRONMENT["dtype"])
    group.add_argument("--quantization", choices=get_args(Quantization))
    group.add_argument("--max-length", type=int, metavar="TOKENS")
    group.add_argument("--overflow", default="truncate", choices=get_args(Overflow))
    group.add_argument("--max-batch-tokens", type=int, metavar="TOKENS")
    group.add_argument("--compile", action="store_true", help="use torch.compile (CUDA)")
    add_hub_flags(group)
    group.add_argument(
        "--local-files-only", action="store_true", help=f"never use the network ({ENVIRONMENT['local_files_only']}=1)"
    )


def add_hub_flags(parser: Any) -> None:
    """Add the flags that say which snapshot and where it is kept."""
    parser.add_argument("--revision")
    parser.add_argument("--cache-dir", help=f"folder of snapshots ({ENVIRONMENT['cache_dir']})")


def load_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return the keyword arguments of `load_encoder` or `load_reranker` from parsed flags."""
    names = (
        "path", "device", "dtype", "quantization", "max_length", "overflow", "max_batch_tokens", "revision",
        "cache_dir", "local_files_only", "compile",
    )  # fmt: skip
    return {name: getattr(arguments, name) for name in names}
