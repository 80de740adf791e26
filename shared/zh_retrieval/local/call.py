"""One call: its inputs cut into slices, which are tokenized, computed and put in their places."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from zh_retrieval import usage
from zh_retrieval.options import WhenFull
from zh_retrieval.sequence import Tokens


class Size(NamedTuple):
    """How large an input is.

    Attributes:
        tokens: About how many tokens the model reads of it: what a limit cuts off does not count.
        characters: All that it has: what it takes to look at it.
        read: How many of them are tokenized.
    """

    tokens: int
    characters: int
    read: int


class Slice(NamedTuple):
    """Inputs low to high of a call, about how many tokens the model reads of them, and how many characters they are."""

    low: int
    high: int
    tokens: int
    characters: int


@dataclass(frozen=True, slots=True)
class Limits:
    """How much of a call is tokenized at once, and how much may wait.

    Attributes:
        inputs: Inputs of a slice: sorted by length together.
        tokens: About the tokens of a slice; one longer input is a slice of its own.
        characters: What is tokenized of a slice; one longer input is a slice of its own.
        queue: Tokens that may wait for each priority; None is the default. No slice is larger.
        when_full: "wait", or "refuse" with OverloadedError.
    """

    inputs: int = 2048
    tokens: int = 262_144
    characters: int = 2**21
    queue: int | None = None
    when_full: WhenFull = "wait"


class Call(ABC):
    """`count` inputs, made into sequences slice by slice, and what becomes of their rows.

    Attributes:
        count: How many inputs.
        used: Tokens and cuts so far.
    """

    count: int

    def __init__(self) -> None:
        self.used = usage.Usage()

    @abstractmethod
    def size(self, index: int) -> Size:
        """Return how large input `index` is."""

    @abstractmethod
    def prepare(self, low: int, high: int) -> list[Tokens]:
        """Return the sequences of inputs low to high."""

    @abstractmethod
    def finish(self, low: int, high: int, rows: np.ndarray) -> None:
        """Take float32 (R, width), the rows of `prepare(low, high)`."""

    def slices(self, limits: Limits) -> Iterator[Slice]:
        """Yield the slices in order."""
        most = min(limits.tokens, limits.queue or limits.tokens)
        low = tokens = read = characters = 0
        for index in range(self.count):
            size = self.size(index)
            full = index - low >= limits.inputs or tokens + size.tokens > most or read + size.read > limits.characters
            if index > low and full:
                yield Slice(low, index, tokens, characters)
                low, tokens, read, characters = index, 0, 0, 0
            tokens, read, characters = tokens + size.tokens, read + size.read, characters + size.characters
        if low < self.count:
            yield Slice(low, self.count, tokens, characters)
