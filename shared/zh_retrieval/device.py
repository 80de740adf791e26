"""Where a model computes and in what, by torch's names: a CPU that runs graphs has no torch to name them."""

from __future__ import annotations


class _Name(str):
    """A name that equals torch's object of that name, whichever side is asked."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        """Return True for the same name, with or without "torch." before it."""
        return str.__eq__(self, str(other).removeprefix("torch.")) is True

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return str.__hash__(self)


class Device(_Name):
    """Where a model computes: "cpu", "mps" or "cuda:N". `torch.device(device)` makes torch's own of it."""

    __slots__ = ()

    @property
    def type(self) -> str:
        """Return the kind alone: "cpu", "mps" or "cuda"."""
        return self.partition(":")[0]


class DType(_Name):
    """What a model computes in: "float32", "bfloat16" or "float16". `getattr(torch, dtype)` is torch's own."""

    __slots__ = ()
