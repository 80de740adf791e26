"""What a user writes for a model, `NAME[=FOLDER][,setting=value...]` or `bm25+NAME...`, in its parts."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import zh_retrieval
from zh_retrieval import checks
from zh_retrieval.errors import ConfigError
from zh_retrieval.evaluation.systems.bm25 import NAME
from zh_retrieval.options import OPTIONS

OURS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("instruction", "title", "chunk", "late_chunking", "name"),
    "reranking": ("instruction", "title", "depth", "name"),
    NAME: ("title", "k1", "b", "name"),
}
"""Settings of eval's own, by what they are for; a model has the options of `load_encoder` beside them."""
_MIX = f"{NAME}+"  # before the name of the dense side of a hybrid
_MIXED = ("weight", "name")  # settings of a hybrid that are those of no side
_LEXICAL = ("title", "k1", "b")
SECRET = ("api_key",)  # in no recipe, name or report
_SWITCH = {"on": True, "true": True, "1": True, "yes": True, "off": False, "false": False, "0": False, "no": False}


@dataclass(frozen=True, slots=True)
class ModelArgument:
    """What was written for one model: its name, and the settings behind it."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> ModelArgument:
        """Return `NAME[=FOLDER][,setting=value...]` in its parts; the folder is the setting `path`.

        Raises:
            ConfigError: There is no name, or an empty folder.
        """
        head, *rest = re.split(r",(?=[A-Za-z0-9_]+=)", text)
        name, equals, folder = head.partition("=")
        settings = {"path": folder} if equals else {}
        for part in rest:
            key, _, value = part.partition("=")
            settings[key] = value
        if not name.strip() or (equals and not folder):
            raise ConfigError(f"{text[:200]!r} is no model. Expected NAME, NAME=FOLDER, or NAME,setting=value,...")
        return ModelArgument(name.strip(), settings)

    @property
    def sides(self) -> tuple[ModelArgument, ...]:
        """Return the lexical and the dense side of a hybrid, each with the settings that are for it; () of others.

        Raises:
            ConfigError: A hybrid of other sides.
        """
        if "+" not in self.name:
            return ()
        dense = self.name.removeprefix(_MIX)
        if dense == self.name or not dense or "+" in dense or dense == NAME:
            raise ConfigError(f"{self.name[:200]!r} is no hybrid. Expected {_MIX}NAME, with NAME an embedding model.")
        lexical = {key: value for key, value in self.settings.items() if key in _LEXICAL}
        others = {key: value for key, value in self.settings.items() if key not in (*_MIXED, *_LEXICAL[1:])}
        return ModelArgument(NAME, lexical), ModelArgument(dense, others)

    def is_as(self, other: ModelArgument) -> bool:
        """Return True if both mean one system, whatever it is called."""
        known = [
            (entry.plain_name, {key: value for key, value in entry.settings.items() if key != "name"})
            for entry in (self, other)
        ]
        return known[0] == known[1]

    @property
    def plain_name(self) -> str:
        """Return the model's name without settings: that of the catalogue, whatever alias was written."""
        if self.sides:
            return _MIX + self.sides[1].plain_name
        return NAME if self.name == NAME else zh_retrieval.get_spec(self.name).name

    def shown(self, *, folder: bool) -> str:
        """Return what tables call it: the name, and what was set; with `folder` where the weights lie, too."""
        if "name" in self.settings:
            return self.settings["name"]
        name = self.plain_name
        if folder and "path" in self.settings:
            name += f"={self.settings['path']}"
        shown = [f"{key}={value}" for key, value in self.settings.items() if key not in ("path", *SECRET)]
        return f"{name} ({', '.join(shown)})" if shown else name

    def ours(self, kind: str) -> dict[str, str]:
        """Return the settings that are eval's own; raises ConfigError for those that neither eval nor a model has."""
        known = OURS[kind]
        for key in self.settings:
            if key not in known and (kind == NAME or key not in OPTIONS):
                others = "" if kind == NAME else " and the options of load_encoder"
                raise ConfigError(f"{self.name} has no setting {key!r}. There are {', '.join(known)}{others}.")
        return {key: value for key, value in self.settings.items() if key in known}


def with_sides(arguments: Sequence[ModelArgument]) -> list[ModelArgument]:
    """Return the arguments, and before each hybrid those of its sides that nobody named."""
    found: list[ModelArgument] = []
    for argument in arguments:
        for side in argument.sides:
            if not any(side.is_as(other) for other in (*arguments, *found)):
                found.append(side)
        found.append(argument)
    return found


def names(arguments: Sequence[ModelArgument]) -> Iterator[str]:
    """Yield what tables call each; the folder is in it where it alone tells two apart."""
    bare = [entry.shown(folder=False) for entry in arguments]
    for entry, name in zip(arguments, bare, strict=True):
        yield name if bare.count(name) == 1 else entry.shown(folder=True)


def switch(key: str, value: str) -> bool:
    """Return what on or off says; raises ConfigError for anything else."""
    if value.lower() not in _SWITCH:
        raise ConfigError(f"{key}={value!r} is unknown. Use on or off.")
    return _SWITCH[value.lower()]


def whole(key: str, value: str | None) -> int | None:
    """Return a positive whole number, None for None; raises ConfigError for anything else."""
    if value is None:
        return None
    return checks.whole_number(key, int(value) if value.isdecimal() else value, "a positive whole number")


def number(key: str, value: str) -> float:
    """Return a number; raises ConfigError for what is none."""
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{key}={value!r} is no number.") from None
