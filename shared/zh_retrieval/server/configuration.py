"""A server's configuration file: TOML with the flags of `zh-retrieval serve`, and a table for each model."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from zh_retrieval.errors import ConfigError
from zh_retrieval.options import OPTIONS

_LARGEST = 1_000_000  # bytes
_KINDS: Mapping[str, tuple[type, ...]] = {
    **dict.fromkeys(("host", "root_path", "unix_socket", "log"), (str,)),
    **dict.fromkeys(
        ("port", "max_texts", "max_body_bytes", "max_pending_bytes", "max_queue_tokens", "max_connections"), (int,)
    ),
    **dict.fromkeys(("max_wait", "transfer_seconds", "stuck_after", "drain"), (int, float)),
    "public_metrics": (bool,),
    "cors_origin": (list,),
}
_OWN = ("name", "path", "served_model_name")
_ELSEWHERE = ("api_key", "base_url", "dialect", "timeout", "when_full", "max_queue_tokens")
_SAID = {str: "a text", int: "a whole number", float: "a number", bool: "true or false", list: "a list of texts"}


@dataclass(frozen=True)
class Configuration:
    """What a file says.

    Attributes:
        flags: By the flag's name, with underscores.
        models: "NAME" or "NAME=FOLDER", as for `Settings`.
        names: Name of a model -> what clients call it.
        options: Name of a model -> options of `load_encoder` or `load_reranker`.
    """

    flags: Mapping[str, Any] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def read(path: str | Path) -> Configuration:
    """Return what a file says, all of it checked but the values that the flags check themselves.

    Raises:
        ConfigError: It cannot be read, is no TOML, or says something that is not known.
    """
    said = _parsed(Path(path))
    tables = said.pop("models", [])
    for name, value in said.items():
        _check_flag(name, value)
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("models is no list of tables. Write [[models]] above each model.")
    for table in tables:
        _check_model(table)
    names = {table["name"]: table["served_model_name"] for table in tables if "served_model_name" in table}
    options = {
        table["name"]: {name: OPTIONS[name].check(name, value) for name, value in table.items() if name not in _OWN}
        for table in tables
    }
    models = tuple(f"{table['name']}={table['path']}" if "path" in table else table["name"] for table in tables)
    return Configuration(said, models, names, options)


def _parsed(path: Path) -> dict[str, Any]:
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib  # pyright: ignore[reportMissingImports]
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST + 1)
    except OSError as error:
        raise ConfigError(f"--config {str(path)[:200]!r} cannot be read: {error.strerror}.") from error
    if len(content) > _LARGEST:
        raise ConfigError(f"--config {str(path)[:200]!r} has more than {_LARGEST} bytes, expected a few lines of TOML.")
    try:
        found: dict[str, Any] = tomllib.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"--config {str(path)[:200]!r} is no TOML: {str(error)[:200]}.") from error
    return found


def _check_flag(name: str, value: Any) -> None:
    kinds = _KINDS.get(name)
    if kinds is None:
        raise ConfigError(
            f"The configuration has {name[:100]!r}, which is not known. There are: models, {', '.join(_KINDS)}. "
            "Options of a model go under its [[models]], keys into ZH_RETRIEVAL_API_KEY."
        )
    fits = type(value) in kinds and (kinds != (list,) or all(isinstance(entry, str) for entry in value))
    if not fits:
        raise ConfigError(f"The configuration's {name} is {str(value)[:40]!r}, expected {_SAID[kinds[-1]]}.")


def _check_model(table: Mapping[str, Any]) -> None:
    known = (*_OWN, *(name for name, option in OPTIONS.items() if option.flag and name not in (*_OWN, *_ELSEWHERE)))
    for name in table:
        if name not in known:
            raise ConfigError(
                f"A [[models]] table has {name[:100]!r}, which is not known. There are: {', '.join(known)}."
            )
    for name in _OWN:
        value = table.get(name, "" if name == "name" else None)
        if value is not None and (not isinstance(value, str) or not value.strip()):
            raise ConfigError(f"A [[models]] table has {name} = {str(value)[:40]!r}, expected a text.")
    if "=" in table["name"]:
        raise ConfigError(f'The model {table["name"][:100]!r} has a folder in its name. Write it as path = "...".')
