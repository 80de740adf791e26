"""Rerankers that read one after the other: a cheap one many passages, a dear one few."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from zh_retrieval.errors import ConfigError
from zh_retrieval.evaluation.systems.arguments import ModelArgument, names, whole


@dataclass(frozen=True, slots=True)
class Step:
    """A reranker of a cascade: what was written for it, what tables call it, and how many passages it reads."""

    argument: ModelArgument
    name: str
    depth: int


def cascades(written: Sequence[Sequence[str]], depth: int) -> list[tuple[Step, ...]]:
    """Return the steps of each cascade, of what was written for each.

    Args:
        written: Of each cascade its steps, `NAME[=FOLDER][,depth=N][,setting=value...]`, the first one first.
        depth: How many passages a first step reads that does not say it.

    Raises:
        ConfigError: What was written is no model or no depth, or a step reads no fewer passages than the one before.
    """
    parsed = [[ModelArgument.parse(text) for text in steps] for steps in written]
    known: list[ModelArgument] = []
    for argument in (argument for steps in parsed for argument in steps):
        if argument not in known:
            known.append(argument)
    called = list(names(known))
    chains = []
    for steps in parsed:
        depths = [whole("depth", argument.settings.get("depth")) for argument in steps]
        depths[0] = depths[0] or depth
        chains.append(
            tuple(
                Step(argument, called[known.index(argument)], _checked(argument, reads, depths[:place]))
                for place, (argument, reads) in enumerate(zip(steps, depths, strict=True))
            )
        )
    return chains


def _checked(argument: ModelArgument, reads: int | None, before: Sequence[int | None]) -> int:
    """Return how many passages a step reads: the tail below it stays in the order of the step before."""
    above = before[-1] if before else None
    if reads is None:
        raise ConfigError(f"{argument.name[:200]} is a further step and does not say how many passages it reads: give "
                          f"{argument.name[:200]},depth=N, with N below {above}.")  # fmt: skip
    if above is not None and reads >= above:
        raise ConfigError(
            f"{argument.name[:200]} reads {reads} passages, and the step before it {above}: a further step reads "
            "fewer, the best that the one before found."
        )
    return reads
