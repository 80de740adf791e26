"""Scores to an order."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from zh_retrieval.checks import whole_number
from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes.spec import ModelSpec, Scoring

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np

Normalize = Literal["none", "sigmoid", "exp"]

FITTING: Mapping[Scoring, tuple[Normalize, ...]] = {
    "classification": ("none", "sigmoid"),
    "query-likelihood": ("none", "exp"),
    "yes-no": ("none", "sigmoid"),
}
"""What may be done to raw scores: a logit has a sigmoid, a mean log-likelihood an exponential."""
_CLASSES: Mapping[Scoring, str] = {"classification": "BGEReranker", "query-likelihood": "RankingGPTReranker"}


@dataclass(frozen=True, slots=True)
class Ranked:
    """One document of a ranking: its index in the input, and its score."""

    index: int
    score: float


def rank_scores(scores: Sequence[float], top_n: int | None = None) -> list[Ranked]:
    """Return the best `top_n` (None: all), best first; equal scores keep the order of the input.

    Raises:
        ConfigError: `top_n` is not a positive whole number.
    """
    if top_n is not None:
        top_n = whole_number("top_n", top_n, "a positive whole number, or None for all")
    order = sorted(range(len(scores)), key=lambda index: (-scores[index], index))
    return [Ranked(index, float(scores[index])) for index in order[:top_n]]


def select_ranked(scores: Sequence[float], top_n: int | None, score_threshold: float | None) -> list[Ranked]:
    """Return `rank_scores` without the scores below `score_threshold` (None: no threshold)."""
    ranked = rank_scores(scores, top_n)
    return [entry for entry in ranked if score_threshold is None or entry.score >= score_threshold]


def normalize_scores(scores: np.ndarray, normalize: Normalize) -> list[float]:
    """Return raw scores as Python floats: unchanged ("none"), or mapped to 0..1 by "sigmoid" or "exp"."""
    import numpy as np

    raw = scores.astype(np.float64)
    if normalize == "sigmoid":
        positive = 1.0 / (1.0 + np.exp(-np.abs(raw)))  # no overflow for large negative logits
        raw = np.where(raw >= 0, positive, 1.0 - positive)
    elif normalize == "exp":
        raw = np.exp(raw)
    values: list[float] = raw.tolist()
    return values


def check_normalize(normalize: Normalize, spec: ModelSpec) -> None:
    """Raise ConfigError unless `normalize` fits the scores of a reranker."""
    fitting = FITTING[spec.scoring] if spec.scoring else ()
    if normalize not in fitting:
        allowed = " or ".join(map(repr, fitting))
        raise ConfigError(f"normalize={normalize!r} does not fit the scores of {spec.name}. Use {allowed}.")


def check_family(cls: str, scoring: Scoring | None, spec: ModelSpec) -> None:
    """Raise ConfigError unless a model scores as the adapter class demands (None: any way will do)."""
    if scoring not in (None, spec.scoring):
        fits = f"{_CLASSES[spec.scoring]} or " if spec.scoring and spec.scoring in _CLASSES else ""
        raise ConfigError(
            f"{cls} is for models with scoring {scoring!r}, but {spec.name} has {spec.scoring!r}. "
            f"Use {fits}ModelScopeReranker."
        )
