"""The load options as flags, the same for every command."""

from __future__ import annotations

import argparse
from typing import Any

from zh_retrieval import checks
from zh_retrieval.options import OPTIONS, Option

_HUB = ("revision", "cache_dir")


def add_load_flags(parser: argparse.ArgumentParser) -> None:
    """Add one flag for each option of `load_encoder` that a shell can give."""
    group = parser.add_argument_group("model options")
    for option in OPTIONS.values():
        if option.flag:
            _add(group, option)


def add_hub_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which snapshot and where it is kept."""
    for name in _HUB:
        _add(parser, OPTIONS[name])


def load_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """Return what the flags say, as keyword arguments of `load_encoder` or `load_reranker`; others are not in it."""
    said = {name: getattr(arguments, name, None) for name in OPTIONS}
    return {name: value for name, value in said.items() if value is not None}


def _add(parser: Any, option: Option) -> None:
    """Add a flag that is None if it is not given: what is given wins over the environment, the default does not."""
    flag = f"--{option.name.replace('_', '-')}"
    says = f"{option.help} ({option.environment})" if option.environment else option.help
    if isinstance(option.default, bool):
        parser.add_argument(flag, action="store_true", default=None, help=says)
    elif option.choices:
        parser.add_argument(flag, choices=option.choices, help=says)
    elif option.check in checks.NUMBERS:
        parser.add_argument(flag, type=int, metavar="TOKENS" if option.check is checks.tokens else "N", help=says)
    elif option.check is checks.seconds:
        parser.add_argument(flag, type=float, metavar="SECONDS", help=says)
    else:
        parser.add_argument(flag, help=says)
