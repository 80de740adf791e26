"""What a recipe must say: the architectures there are, what is usual for each, and the check of a `ModelSpec`.

Needs no torch: the files that read checkpoints are listed in `zh_retrieval.models`, under the same names.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from zh_retrieval.errors import ConfigError

TASKS = ("embedding", "reranking", "sparse")
SPARSE = ("token-weights",)
POOLINGS = ("cls", "mean", "last")
HUBS = ("modelscope", "huggingface", "builtin")


class Entry(Protocol):
    """What the rules read of a `ModelSpec`."""

    @property
    def name(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def aliases(self) -> tuple[str, ...]: ...
    @property
    def sources(self) -> tuple[Any, ...]: ...
    @property
    def max_length(self) -> int: ...
    @property
    def dimension(self) -> int | None: ...
    @property
    def pooling(self) -> str | None: ...
    @property
    def dense(self) -> bool: ...
    @property
    def matryoshka(self) -> int | None: ...
    @property
    def sparse(self) -> str | None: ...
    @property
    def query_template(self) -> str: ...
    @property
    def document_template(self) -> str: ...
    @property
    def instruction(self) -> str | None: ...
    @property
    def scoring(self) -> str | None: ...
    @property
    def answers(self) -> tuple[str, ...]: ...
    @property
    def languages(self) -> tuple[str, ...]: ...
    @property
    def length_limit(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Body:
    """What is known of an architecture before any checkpoint is read.

    Attributes:
        embeds: True if an embedder can be made of it.
        scorings: How a reranker made of it can score: the heads it has.
        prefix: Special tokens usually put before a text.
        suffix: Special tokens usually put after a text.
        separator: Special tokens usually put between the texts of a pair.
        causal: True if a token sees only the tokens before it.
        sparse_layer: The layer of the checkpoint that gives a token its weight, where a recipe has a sparse side; "":
            it is published in a file of its own.
    """

    embeds: bool = True
    scorings: tuple[str, ...] = ()
    prefix: tuple[str, ...] = ()
    suffix: tuple[str, ...] = ()
    separator: tuple[str, ...] = ()
    causal: bool = False
    sparse_layer: str = ""


ARCHITECTURES: Mapping[str, Body] = {
    "bert": Body(scorings=("classification",), prefix=("[CLS]",), suffix=("[SEP]",), separator=("[SEP]",)),
    "xlm-roberta": Body(scorings=("classification",), prefix=("<s>",), suffix=("</s>",), separator=("</s>", "</s>")),
    "jina-bert": Body(prefix=("<s>",), suffix=("</s>",)),
    "gte": Body(
        scorings=("classification",), prefix=("<s>",), suffix=("</s>",), separator=("</s>", "</s>"),
        sparse_layer="classifier",
    ),
    "mistral": Body(prefix=("<s>",), suffix=("</s>",), causal=True),
    "qwen3": Body(suffix=("<|endoftext|>",), causal=True),
    "causal-lm": Body(embeds=False, scorings=("query-likelihood", "yes-no"), causal=True),
}  # fmt: skip


def usual(spec: Entry) -> dict[str, Any]:
    """Return what fields that were left out become."""
    body = ARCHITECTURES.get(spec.architecture, Body())
    separator = body.separator if spec.scoring == "classification" else ()
    return {
        "length_limit": spec.max_length,
        "prefix": body.prefix,
        "suffix": body.suffix,
        "separator": separator,
    }


def check(spec: Entry) -> None:
    """Raise ConfigError, which says everything that is wrong, unless the recipe can be followed."""
    wrong = [problem for rule in _RULES for problem in rule(spec)]
    if wrong:
        raise ConfigError(f"The entry of {spec.name!r} cannot be used: {'; '.join(wrong)}.")


def check_dimensions(spec: Entry, dimensions: int | None, width: int | None) -> None:
    """Raise ConfigError unless vectors of `width` numbers (None: not known yet) may be cut to so many (None: all)."""
    if dimensions is None:
        return
    if spec.matryoshka is None:
        raise ConfigError(f"dimensions={dimensions} needs a model that was trained for it; {spec.name} was not.")
    if dimensions < spec.matryoshka or (width is not None and dimensions > width):
        most = "the model's own" if width is None else width
        raise ConfigError(f"dimensions={dimensions} must be {spec.matryoshka} to {most} for {spec.name}.")


def _names(spec: Entry) -> Iterator[str]:
    if not isinstance(spec.name, str) or not spec.name.strip():
        yield f"name is {spec.name!r}, expected a text"
    for what in ("aliases", "prefix", "suffix", "separator", "answers", "languages"):
        value = getattr(spec, what)
        if not isinstance(value, tuple) or not all(isinstance(item, str) and item for item in value):
            yield f"{what} is {value!r}, expected a tuple of texts"
    if not isinstance(spec.sources, tuple) or not all(getattr(source, "hub", None) in HUBS for source in spec.sources):
        yield f"sources is {spec.sources!r}, expected a tuple of Source; a hub is one of {_listed(HUBS)}"


def _kinds(spec: Entry) -> Iterator[str]:
    if spec.task not in TASKS:
        yield f"task is {spec.task!r}, expected one of {_listed(TASKS)}"
    if spec.task == "sparse":
        if spec.architecture != "bm25":
            yield f"architecture is {spec.architecture!r}, but task 'sparse' is for 'bm25' alone"
    elif spec.architecture not in ARCHITECTURES:
        yield f"architecture is {spec.architecture!r}, expected one of {_listed(ARCHITECTURES)}"


def _embedder(spec: Entry) -> Iterator[str]:
    if spec.task != "embedding":
        return
    body = ARCHITECTURES.get(spec.architecture)
    if body is not None and not body.embeds:
        able = [name for name, other in ARCHITECTURES.items() if other.embeds]
        yield f"architecture {spec.architecture!r} gives no vectors; use one of {_listed(able)}"
    if spec.pooling not in POOLINGS:
        yield f"pooling is {spec.pooling!r}, but an embedder needs one of {_listed(POOLINGS)}"
    if spec.dimension is None:
        yield "dimension is None, but an embedder needs the length of its vectors"
    if spec.scoring is not None:
        yield f"scoring is {spec.scoring!r}, but an embedder has none"
    if spec.sparse is not None and spec.sparse not in SPARSE:
        yield f"sparse is {spec.sparse!r}, expected one of {_listed(SPARSE)}, or None"


def _reranker(spec: Entry) -> Iterator[str]:
    if spec.task != "reranking":
        return
    scorings = {scoring for body in ARCHITECTURES.values() for scoring in body.scorings}
    if spec.scoring not in scorings:
        yield f"scoring is {spec.scoring!r}, but a reranker needs one of {_listed(sorted(scorings))}"
    elif spec.architecture in ARCHITECTURES and spec.scoring not in ARCHITECTURES[spec.architecture].scorings:
        able = [name for name, body in ARCHITECTURES.items() if spec.scoring in body.scorings]
        yield f"architecture {spec.architecture!r} has no head for scoring {spec.scoring!r}; use {_listed(able)}"
    for what in ("dimension", "pooling", "matryoshka", "dense", "sparse"):
        if getattr(spec, what) not in (None, False):
            yield f"{what} is {getattr(spec, what)!r}, but a reranker has none"
    if spec.scoring == "yes-no" and len(spec.answers) != 2:
        yield f"answers is {spec.answers!r}, but scoring 'yes-no' compares two tokens"


def _sizes(spec: Entry) -> Iterator[str]:
    sizes = {name: getattr(spec, name) for name in ("max_length", "length_limit")}
    sizes |= {
        name: value for name in ("parameters", "dimension", "matryoshka") if (value := getattr(spec, name)) is not None
    }
    bad = {name: value for name, value in sizes.items() if type(value) is not int or value < 1}
    yield from (f"{name} is {value!r}, expected a positive whole number" for name, value in bad.items())
    if bad:
        return
    if spec.max_length > spec.length_limit:
        yield f"max_length {spec.max_length} is over length_limit {spec.length_limit}"
    if spec.matryoshka is not None and spec.dimension is not None and spec.matryoshka > spec.dimension:
        yield f"matryoshka {spec.matryoshka} is over dimension {spec.dimension}"


def _templates(spec: Entry) -> Iterator[str]:
    for what in ("query_template", "document_template"):
        template = getattr(spec, what)
        if not isinstance(template, str) or template.count("{text}") != 1:
            yield f"{what} is {template!r}, expected a text that holds {{text}} once"
    if "{instruction}" in str(spec.document_template):
        yield "document_template holds {instruction}, which only a query has"
    has_place = "{instruction}" in str(spec.query_template)
    if has_place and not spec.instruction:
        yield "query_template holds {instruction}, but instruction, its default, is missing"
    if spec.instruction and not has_place:
        yield f"instruction is {spec.instruction!r}, but query_template has no place {{instruction}} for it"


_RULES: tuple[Callable[[Entry], Iterator[str]], ...] = (
    _names, _kinds, _embedder, _reranker, _sizes, _templates,
)  # fmt: skip


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(repr, names))
