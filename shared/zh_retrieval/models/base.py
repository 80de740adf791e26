"""What a family says about a checkpoint: the class that reads it, and which of its parts compute what."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True, slots=True)
class Parts:
    """The parts of a loaded model.

    Attributes:
        body: Gives the last hidden states, (1, T, H).
        head: The classification head, or a language model's, which gives (R, V) for (R, H); None for embedders.
        width: Hidden size H.
        length_limit: The most tokens of one sequence, special tokens included.
        position_offset: The first position id.
        packed: True if the body takes packed rows; False needs padded batches.
        causal: True if tokens see earlier ones alone, so that a prefix that packed sequences share is computed once.
        whole: The causal LM that body and head are parts of, which says what is right (`checkpoint.packed_check`).
    """

    body: nn.Module
    head: nn.Module | None
    width: int
    length_limit: int
    position_offset: int = 0
    packed: bool = True
    causal: bool = False
    whole: Any = None


@dataclass(frozen=True, slots=True)
class Plan:
    """How a checkpoint of one family is loaded.

    Attributes:
        cls: The transformers class that reads it.
        config: Its configuration.
        parts: The loaded model to its parts.
        attention: Which attention implementation of transformers the model uses; None is ours, for packed rows.
        arguments: More keyword arguments of `from_pretrained`.
    """

    cls: Any
    config: Any
    parts: Callable[[Any], Parts]
    attention: str | None = None
    arguments: Mapping[str, Any] = field(default_factory=dict)


Family = Callable[[dict[str, Any]], Plan]
"""config.json to the plan; raises CheckpointError if the family cannot compute what it says."""
