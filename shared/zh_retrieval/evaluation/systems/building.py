"""What a user writes for models and rerankers, to systems."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import zh_retrieval
from zh_retrieval import checks
from zh_retrieval.errors import ConfigError
from zh_retrieval.evaluation.systems.arguments import SECRET, ModelArgument, names, number, switch, whole, with_sides
from zh_retrieval.evaluation.systems.base import System
from zh_retrieval.evaluation.systems.bm25 import BM25, NAME
from zh_retrieval.evaluation.systems.cascades import Step, cascades
from zh_retrieval.evaluation.systems.dense import Dense, Reading
from zh_retrieval.evaluation.systems.hybrid import Hybrid
from zh_retrieval.evaluation.systems.measuring import conditions
from zh_retrieval.evaluation.systems.reranked import Reranked
from zh_retrieval.evaluation.systems.store import Store, Weights
from zh_retrieval.frameworks.identity import identity
from zh_retrieval.options import OPTIONS, LoadOptions
from zh_retrieval.recipes.spec import ModelSpec, Task
from zh_retrieval.sparse.fusion import WEIGHT

_OF_ONE = ("path", "revision", "dimensions")  # flags that mean the model, not the reranker beside it


def build(
    models: Sequence[str], rerankers: Sequence[Sequence[str]], flags: Mapping[str, Any], store: Store, *, depth: int,
    bm25: bool,
) -> list[System]:  # fmt: skip
    """Return the systems: BM25 if wanted, every model, and every step of every cascade on top of each of them.

    Args:
        models: What was written for each; "bm25" is one, with settings k1, b and title, and "bm25+NAME" a hybrid, with
            weight; its sides are systems, too.
        rerankers: What was written for each step of each cascade, the cheap one first; a reranker is a cascade of one.
            A step that two begin with is one system.
        flags: Load options that hold for all; what is written for a model goes before.
        store: Where vectors and scores are kept.
        depth: How many passages of each query are reranked by a first step that does not say it.
        bm25: Whether BM25 is there without being named.

    Raises:
        ConfigError: What was written makes no sense, or `depth` is no positive whole number.
    """
    checks.whole_number("rerank depth", depth, "a positive whole number of passages")
    first = with_sides([ModelArgument.parse(text) for text in models])
    if bm25 and not any(argument.name == NAME for argument in first):
        first.insert(0, ModelArgument(NAME))
    stages = _first_stages(first, flags, store)
    chains = cascades(rerankers, depth)
    return [*stages, *(system for stage in stages for system in _on_top(stage, chains, flags, store))]


def _on_top(
    stage: System, chains: Sequence[Sequence[Step]], flags: Mapping[str, Any], store: Store
) -> Iterator[System]:
    """Yield every step of every cascade on top of a first stage; what two cascades begin with, once."""
    built: list[tuple[Sequence[Step], System]] = []
    for chain in chains:
        below = stage
        for end in range(1, len(chain) + 1):
            known = next((system for steps, system in built if steps == chain[:end]), None)
            system = known or _reranked(chain[end - 1], below, flags, store)
            if known is None:
                built.append((chain[:end], system))
                yield system
            below = system


def _first_stages(arguments: Sequence[ModelArgument], flags: Mapping[str, Any], store: Store) -> list[System]:
    """Return a system for each; a hybrid's sides are those that are there."""
    named = list(zip(arguments, names(arguments), strict=True))
    built = [(entry, _first_stage(entry, name, flags, store)) for entry, name in named if not entry.sides]

    def hybrid(argument: ModelArgument, name: str) -> System:
        lexical, dense = (next(system for entry, system in built if entry.is_as(side)) for side in argument.sides)
        written = argument.settings.get("weight")
        return Hybrid(name, dense, lexical, weight=WEIGHT if written is None else number("weight", written))

    single = iter(built)
    return [hybrid(entry, name) if entry.sides else next(single)[1] for entry, name in named]


def rerank_on(base: System, reranker: str, flags: Mapping[str, Any], store: Store) -> System:
    """Return one reranker, as a user writes it, on top of any system: it scores every passage that this finds."""
    argument = ModelArgument.parse(reranker)
    return _reranked(Step(argument, argument.name, sys.maxsize), base, flags, store)


def _first_stage(argument: ModelArgument, name: str, flags: Mapping[str, Any], store: Store) -> System:
    if argument.name == NAME:
        settings = argument.ours(NAME)
        numbers = {key: number(key, settings[key]) for key in ("k1", "b") if key in settings}
        return BM25(name, title=_title(settings), **numbers)
    spec = _spec(argument.name, "embedding")
    settings = argument.ours("embedding")
    shared = {key: value for key, value in flags.items() if (key, value) != ("overflow", "window")}
    options = shared | _load_options(argument)
    late = whole("late_chunking", settings.get("late_chunking"))
    chunk = whole("chunk", settings.get("chunk"))
    if late and chunk:
        raise ConfigError(f"{argument.name}: give chunk or late_chunking, not both.")
    reading = Reading(_instruction(settings, spec), _title(settings), late or chunk, late=late is not None)
    return Dense(
        name, lambda: zh_retrieval.load_encoder(spec, **options), _recipe(spec, options), store,
        reading=reading, settings=_shown(spec, options, settings), conditions=_conditions(options),
        weights=_weights(spec, options),
    )  # fmt: skip


def _reranked(step: Step, base: System, flags: Mapping[str, Any], store: Store) -> System:
    argument = step.argument
    spec = _spec(argument.name, "reranking")
    settings = argument.ours("reranking")
    options = {key: value for key, value in flags.items() if key not in _OF_ONE} | _load_options(argument)
    return Reranked(
        f"{base.name} + {step.name}", base, lambda: zh_retrieval.load_reranker(spec, **options), _recipe(spec, options),
        store, depth=step.depth, instruction=_instruction(settings, spec), title=_title(settings),
        settings=_shown(spec, options, settings), conditions=_conditions(options),
        weights=_weights(spec, options),
    )  # fmt: skip


def _spec(name: str, task: Task) -> ModelSpec:
    spec = zh_retrieval.get_spec(name)
    if spec.task != task:
        flags = {"reranking": "Give it with --reranker", "embedding": "Give it with --model", "sparse": "Use bm25"}
        raise zh_retrieval.WrongTaskError(f"{spec.name} is for {spec.task}, not {task}. {flags[spec.task]}.")
    return spec


def _load_options(argument: ModelArgument) -> dict[str, Any]:
    options: dict[str, Any] = {}
    for key, value in argument.settings.items():
        if key not in OPTIONS:
            continue
        option = OPTIONS[key]
        if isinstance(option.default, bool):
            options[key] = switch(key, value)
        elif isinstance(option.default, float):
            options[key] = number(key, value)
        else:
            options[key] = whole(key, value) if option.check in checks.NUMBERS else value
    return options


def _weights(spec: ModelSpec, options: Mapping[str, Any]) -> Weights:
    """Return what tells weights apart: a hash of the content of the files here, None where a server has them."""
    remote = options.get("base_url") is not None
    return Weights(lambda: None if remote else identity(spec, LoadOptions.given(**options))["weights"])


def _conditions(options: Mapping[str, Any]) -> str:
    return conditions({key: value for key, value in options.items() if key not in SECRET})


def _recipe(spec: ModelSpec, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return all that results depend on but the weights, which `_weights` tells apart, and where they are computed."""
    place = {key: options[key] for key in ("device", "base_url") if key in options}
    known = identity(spec, LoadOptions.given(**options))
    return {
        "model": spec.name,
        **{key: value for key, value in known.items() if key not in ("weights", "path", "revision")},
        **place,
    }


def _shown(spec: ModelSpec, options: Mapping[str, Any], settings: Mapping[str, str]) -> dict[str, Any]:
    decisive = {**options, **{key: value for key, value in settings.items() if key not in ("name", "depth")}}
    return {"model": spec.name, **{key: str(value) for key, value in decisive.items() if key not in SECRET}}


def _instruction(settings: Mapping[str, str], spec: ModelSpec) -> str | None:
    written = settings.get("instruction")
    if written in (None, "on"):
        return None
    instruction = "" if written == "off" else written
    spec.format_query("", instruction)  # a model that takes none says so before anything is computed
    return instruction


def _title(settings: Mapping[str, str]) -> bool:
    return switch("title", settings.get("title", "on"))
