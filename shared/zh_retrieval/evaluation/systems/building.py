"""What a user writes for a model, `NAME[=FOLDER][,setting=value...]`, to systems."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import zh_retrieval
from zh_retrieval import checks
from zh_retrieval.errors import ConfigError
from zh_retrieval.evaluation.systems.base import System
from zh_retrieval.evaluation.systems.bm25 import BM25, NAME
from zh_retrieval.evaluation.systems.dense import Dense, Reading
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.store import Store
from zh_retrieval.frameworks.identity import identity
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.spec import ModelSpec, Task

_OURS: Mapping[str, tuple[str, ...]] = {
    "embedding": ("instruction", "title", "chunk", "late_chunking", "name"),
    "reranking": ("instruction", "title", "name"),
    NAME: ("title", "k1", "b", "name"),
}
_SECRET = ("api_key",)  # in no recipe, name or report
_SWITCH = {"on": True, "true": True, "1": True, "yes": True, "off": False, "false": False, "0": False, "no": False}
_OF_ONE = ("path", "revision", "dimensions")  # flags that mean the model, not the reranker beside it


@dataclass(frozen=True, slots=True)
class Said:
    """What was written for one model: its name, and the settings behind it."""

    name: str
    settings: dict[str, str] = field(default_factory=dict)

    @staticmethod
    def parse(text: str) -> Said:
        """Return `NAME[=FOLDER][,setting=value...]` in its parts; the folder is the setting `path`."""
        head, *rest = re.split(r",(?=[A-Za-z0-9_]+=)", text)
        name, equals, folder = head.partition("=")
        settings = {"path": folder} if equals else {}
        for part in rest:
            key, _, value = part.partition("=")
            settings[key] = value
        if not name.strip() or (equals and not folder):
            raise ConfigError(f"{text!r} is no model. Expected NAME, NAME=FOLDER, or NAME,setting=value,...")
        return Said(name.strip(), settings)


def build(
    models: Sequence[str], rerankers: Sequence[str], flags: Mapping[str, Any], store: Store, *, depth: int, bm25: bool
) -> list[System]:
    """Return the systems: BM25 if wanted, every model, and every reranker on top of each of them.

    Args:
        models: What was written for each; "bm25" is one, with settings k1, b and title.
        rerankers: What was written for each.
        flags: Load options that hold for all; what is written for a model goes before.
        store: Where vectors and scores are kept.
        depth: How many passages of each query are reranked.
        bm25: Whether BM25 is there without being named.
    """
    first = [Said.parse(text) for text in models]
    if bm25 and not any(said.name == NAME for said in first):
        first.insert(0, Said(NAME))
    names = _names(first, "embedding")
    stages = [_first_stage(said, name, flags, store) for said, name in zip(first, names, strict=True)]
    second = [Said.parse(text) for text in rerankers]
    on_top = [
        _reranked(said, name, stage, flags, store, depth)
        for stage in stages
        for said, name in zip(second, _names(second, "reranking"), strict=True)
    ]
    return [*stages, *on_top]


def _first_stage(said: Said, name: str, flags: Mapping[str, Any], store: Store) -> System:
    if said.name == NAME:
        settings = _ours(said, NAME)
        numbers = {key: _number(key, settings[key]) for key in ("k1", "b") if key in settings}
        return BM25(name, title=_title(settings), **numbers)
    spec = _spec(said.name, "embedding")
    settings = _ours(said, "embedding")
    shared = {key: value for key, value in flags.items() if (key, value) != ("overflow", "window")}
    options = shared | _load_options(said)
    late = _whole("late_chunking", settings.get("late_chunking"))
    chunk = _whole("chunk", settings.get("chunk"))
    if late and chunk:
        raise ConfigError(f"{said.name}: give chunk or late_chunking, not both.")
    reading = Reading(_instruction(settings, spec), _title(settings), late or chunk, late=late is not None)
    return Dense(
        name, lambda: zh_retrieval.load_encoder(spec, **options), _recipe(spec, options), store,
        reading=reading, settings=_shown(spec, options, settings),
    )  # fmt: skip


def _reranked(said: Said, name: str, base: System, flags: Mapping[str, Any], store: Store, depth: int) -> System:
    spec = _spec(said.name, "reranking")
    settings = _ours(said, "reranking")
    options = {key: value for key, value in flags.items() if key not in _OF_ONE} | _load_options(said)
    return Reranked(
        f"{base.name} + {name}", base, lambda: zh_retrieval.load_reranker(spec, **options), _recipe(spec, options),
        store, depth=depth, instruction=_instruction(settings, spec), title=_title(settings),
        settings=_shown(spec, options, settings),
    )  # fmt: skip


def _spec(name: str, task: Task) -> ModelSpec:
    spec = zh_retrieval.get_spec(name)
    if spec.task != task:
        flag = "--reranker" if task == "embedding" else "--model"
        raise zh_retrieval.WrongTaskError(f"{spec.name} is for {spec.task}, not {task}. Give it with {flag}.")
    return spec


def _names(said: Sequence[Said], task: str) -> list[str]:
    """Return what tables call them: the model's name, and what was set; the folder where it alone tells two apart."""
    bare = [_name(entry, folder=False) for entry in said]
    return [
        name if bare.count(name) == 1 else _name(entry, folder=True) for entry, name in zip(said, bare, strict=True)
    ]


def _name(said: Said, *, folder: bool) -> str:
    if "name" in said.settings:
        return said.settings["name"]
    name = NAME if said.name == NAME else zh_retrieval.get_spec(said.name).name
    if folder and "path" in said.settings:
        name += f"={said.settings['path']}"
    shown = [f"{key}={value}" for key, value in said.settings.items() if key not in ("path", *_SECRET)]
    return f"{name} ({', '.join(shown)})" if shown else name


def _ours(said: Said, kind: str) -> dict[str, str]:
    known = _OURS[kind]
    for key in said.settings:
        if key not in known and (kind == NAME or key not in OPTIONS):
            others = "" if kind == NAME else " and the options of load_encoder"
            raise ConfigError(f"{said.name} has no setting {key!r}. There are {', '.join(known)}{others}.")
    return {key: value for key, value in said.settings.items() if key in known}


def _load_options(said: Said) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in said.settings.items():
        if key not in OPTIONS:
            continue
        option = OPTIONS[key]
        if isinstance(option.default, bool):
            options[key] = _switch(key, value)
        elif isinstance(option.default, float):
            options[key] = _number(key, value)
        else:
            options[key] = _whole(key, value) if option.check in checks.NUMBERS else value
    return options


def _recipe(spec: ModelSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that results depend on, and where they are computed, which their times depend on."""
    told = {key: value for key, value in options.items() if key not in _SECRET}
    place = {key: told[key] for key in ("device", "base_url") if key in told}
    return {"model": spec.name, **identity(spec, LoadOptions.given(**options)), "place": place}


def _shown(spec: ModelSpec, options: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    said = {**options, **{key: value for key, value in settings.items() if key != "name"}}
    return {"model": spec.name, **{key: str(value) for key, value in said.items() if key not in _SECRET}}


def _instruction(settings: Mapping[str, str], spec: ModelSpec) -> str | None:
    said = settings.get("instruction")
    if said in (None, "on"):
        return None
    instruction = "" if said == "off" else said
    spec.format_query("", instruction)  # a model that takes none says so before anything is computed
    return instruction


def _title(settings: Mapping[str, str]) -> bool:
    return _switch("title", settings.get("title", "on"))


def _switch(key: str, value: str) -> bool:
    if value.lower() not in _SWITCH:
        raise ConfigError(f"{key}={value!r} is unknown. Use on or off.")
    return _SWITCH[value.lower()]


def _whole(key: str, value: str | None) -> int | None:
    if value is None:
        return None
    return checks.whole_number(key, int(value) if value.isdecimal() else value, "a positive whole number")


def _number(key: str, value: str) -> float:
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{key}={value!r} is no number.") from None
