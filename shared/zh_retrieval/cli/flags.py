"""The load options as flags, the same for every command."""

from __future__ import annotations

import argparse
from typing import Any

from zh_retrieval import checks
from zh_retrieval.errors import ConfigError
from zh_retrieval.options import OPTIONS, Option

_HUB = ("revision", "cache_dir")
_REMOTE = ("base_url", "dialect", "timeout", "served_model_name")


def add_load_flags(parser: argparse.ArgumentParser, *, remote: bool = True) -> None:
    """Add one flag for each option of `load_encoder` that a shell can give; not `remote`: but those of a server."""
    group = parser.add_argument_group("model options")
    for option in OPTIONS.values():
        if option.flag and (remote or option.name not in _REMOTE):
            _add(group, option)


def add_encoding_flag(parser: argparse.ArgumentParser) -> None:
    """Add the flag that says which encoding text files are in."""
    parser.add_argument(
        "--encoding", default="utf-8", metavar="NAME", help="of text files: gb18030 for what Excel writes in China, ..."
    )


def add_hub_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say which snapshot and where it is kept."""
    for name in _HUB:
        _add(parser, OPTIONS[name])


def add_reading_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that say how input files are read."""
    parser.add_argument(
        "--encoding", default="utf-8", metavar="NAME",
        help="of files that are text; default utf-8. What Excel writes in China is gb18030 (GBK is part of it)",
    )  # fmt: skip
    parser.add_argument("--on-error", choices=("fail", "skip"), default="fail", help="lines that are no record")


def take_folder(arguments: argparse.Namespace, model: str = "model", path: str = "path") -> None:
    """Take `NAME=FOLDER`, which the flag `model` may hold, apart: the name stays, the folder becomes the flag `path`.

    Every command that takes a model calls this before anything else.

    Raises:
        ConfigError: One side of "=" is empty, or `path` names another folder.
    """
    written = getattr(arguments, model)
    if written is None or "=" not in written:
        return
    name, _, folder = (part.strip() for part in written.partition("="))
    if not name or not folder:
        raise ConfigError(f"--{model} {written[:200]!r} is no model. Expected NAME or NAME=FOLDER.")
    if getattr(arguments, path) not in (None, folder):
        raise ConfigError(
            f"--{model} {written[:200]!r} names one folder, --{path.replace('_', '-')} another. Give one."
        )
    setattr(arguments, model, name)
    setattr(arguments, path, folder)


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
