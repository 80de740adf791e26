"""Which models fit a situation, by what their entries say."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from zh_retrieval.recipes.spec import ModelSpec

_HALF = 600_000_000  # weights; above, a query takes seconds on a few cores
_LONG = 2048  # tokens


@dataclass(frozen=True, slots=True)
class Situation:
    """A situation of a user, and the models that fit it.

    Attributes:
        what: The situation.
        rule: By which fact of its entry a model fits.
        fits: The rule, as code.
    """

    what: str
    rule: str
    fits: Callable[[ModelSpec], bool]


SITUATIONS: Mapping[str, Situation] = {
    "offline": Situation(
        "nothing may be downloaded", "ships in the package",
        lambda spec: any(source.hub == "builtin" for source in spec.sources),
    ),
    "cpu": Situation(
        "a CPU", "at most 0.6 billion weights", lambda spec: spec.parameters is not None and spec.parameters <= _HALF
    ),
    "gpu": Situation(
        "a GPU", "at least 0.3 billion weights: smaller ones are quick without",
        lambda spec: spec.parameters is not None and spec.parameters >= _HALF // 2,
    ),
    "long": Situation(
        "texts of over 512 tokens", "reads 2048 tokens or more, some only with max_length=",
        lambda spec: spec.length_limit >= _LONG,
    ),
    "english": Situation(
        "Chinese and English", "was trained for both", lambda spec: {"zh", "en"} <= set(spec.languages)
    ),
}  # fmt: skip
"""By the word that `zh-retrieval models --for` takes."""


def fitting(specs: Iterable[ModelSpec], words: Iterable[str]) -> list[ModelSpec]:
    """Return the models that fit every one of the situations, the smallest first; unknown sizes last."""
    chosen = [SITUATIONS[word] for word in words]
    found = [spec for spec in specs if all(situation.fits(spec) for situation in chosen)]
    return sorted(found, key=lambda spec: (spec.parameters is None, spec.parameters or 0))


def situation_rows(specs: Iterable[ModelSpec]) -> list[tuple[str, ...]]:
    """Return a row for each situation: what, word, rule, and the names of the embedders and rerankers that fit."""
    specs = list(specs)
    rows = []
    for word, situation in SITUATIONS.items():
        found = fitting(specs, [word])
        names = (", ".join(spec.name for spec in found if spec.task == task) for task in ("embedding", "reranking"))
        rows.append((situation.what, word, situation.rule, *(listed or "-" for listed in names)))
    return rows
