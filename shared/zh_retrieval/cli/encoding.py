"""Which vectors `embed` makes: the flags of the dense and of the sparse side."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any

from zh_retrieval.cli.flags import load_options
from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.sparse.options import SETTINGS

if TYPE_CHECKING:
    from zh_retrieval.distributed.encoding import Encoding

_SPARSE = "bm25-zh"
_OF_DENSE = ("path", "revision")  # flags that mean the dense model, not another one beside it


def add_sparse_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags that ask for sparse vectors, and for these alone."""
    parser.add_argument(
        "--sparse", nargs="?", const=_SPARSE, metavar="NAME[=FOLDER][,setting=value...]",
        help=f"sparse vectors, too: {_SPARSE} (without a NAME, which must not stand before an INPUT), or a model "
        f"that has a sparse side; settings of {_SPARSE}: k1=, b=, average_length=",
    )  # fmt: skip
    parser.add_argument("--no-dense", action="store_true", help="leave the dense vectors out: with --sparse")


def encoding_of(arguments: argparse.Namespace) -> Encoding:
    """Return what the flags ask for; nothing is loaded yet.

    Raises:
        UnknownModelError, WrongTaskError: A model is none of that kind.
        ConfigError: No vectors are asked for, or --sparse makes no sense.
    """
    from zh_retrieval.distributed.encoding import Encoding

    if arguments.no_dense and arguments.sparse is None:
        raise ConfigError("--no-dense leaves no vectors. Add --sparse, or leave it out.")
    sparse, options = (None, {}) if arguments.sparse is None else _sparse(arguments)
    encoding = Encoding(
        None if arguments.no_dense else arguments.model, {} if arguments.no_dense else load_options(arguments),
        sparse, options, arguments.role, arguments.instruction,
    )  # fmt: skip
    encoding.check()
    return encoding


def _sparse(arguments: argparse.Namespace) -> tuple[str, dict[str, Any]]:
    """Return the sparse model and its options: what stands behind its name, and, where it has weights, the flags."""
    name, settings = _parsed(arguments.sparse)
    spec = get_spec(name)
    numbers = {key: _number(name, key, value) for key, value in settings.items() if key != "path"}
    folder = {"path": settings["path"]} if "path" in settings else {}
    if spec.task == "sparse":
        return name, {**numbers, **folder}
    flags = {key: value for key, value in load_options(arguments).items() if key != "dimensions"}
    if not arguments.no_dense and get_spec(arguments.model) != spec:
        flags = {key: value for key, value in flags.items() if key not in _OF_DENSE}
    return name, {**flags, **numbers, **folder}


def _parsed(text: str) -> tuple[str, dict[str, str]]:
    """Return NAME[=FOLDER][,setting=value...] in its parts; the folder is the setting `path`."""
    head, *rest = re.split(r",(?=[A-Za-z0-9_]+=)", text)
    name, equals, folder = head.partition("=")
    if not name.strip() or (equals and not folder):
        raise ConfigError(f"--sparse {text[:200]!r} is no model. Expected NAME, NAME=FOLDER or NAME,setting=value,...")
    settings = {"path": folder} if equals else {}
    return name.strip(), settings | {key: value for key, _, value in (part.partition("=") for part in rest)}


def _number(model: str, key: str, value: str) -> float:
    if key not in SETTINGS:
        raise ConfigError(f"--sparse {model} has no setting {key!r}. There are {', '.join(SETTINGS)}.")
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"--sparse {model},{key}={value[:80]!r}: expected a number.") from None
