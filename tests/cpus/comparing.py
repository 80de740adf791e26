"""What another CPU computed against what this one computes: in float32, and in the same arithmetic."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Result = Mapping[str, Any]
"""What `computing` prints of a model in one arithmetic."""


@dataclass(frozen=True, slots=True)
class Bound:
    """How far results may lie apart.

    Attributes:
        angle: Largest 1 - cosine of two vectors.
        number: Largest difference of two numbers of vectors, or of two scores.
    """

    angle: float
    number: float

    def __str__(self) -> str:
        return f"1 - cosine {self.angle:.0e}, {self.number:.0e}" if self.angle else f"{self.number:.0e}"

    def holds(self, off: Bound) -> bool:
        """Return True if what was measured is within the bound; NaN is not."""
        return off.angle <= self.angle and off.number <= self.number


_FLOAT32 = Bound(1e-5, 1e-5)
_ROUNDED = {"bfloat16": Bound(2e-3, 0.1), "int8": Bound(5e-3, 0.15), "int4": Bound(0.3, 1.5)}
"""Of what is rounded to float32. Random weights lose more than trained ones: every layer makes a rounding grow."""

_SAME = {"bfloat16": Bound(2e-3, 0.1), "int8": Bound(5e-3, 0.15), "int4": Bound(5e-3, 0.15)}
"""Of the same arithmetic here: the weights are the same, only a CPU with VNNI rounds activations, too."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One comparison.

    Attributes:
        model: Its name.
        asked: For which arithmetic.
        said: What came of it.
        right: Whether that is what it ought to be.
    """

    model: str
    asked: str
    said: str
    right: bool

    def __str__(self) -> str:
        return f"{'right' if self.right else 'WRONG'}  {self.model:17} {self.asked:9} {self.said}"


def compare(here: Sequence[Result], there: Iterable[Result], may_refuse: Collection[str] = ()) -> Iterator[Finding]:
    """Yield a finding for each result of another CPU as it comes, then one for each that never came.

    It may refuse, in our words, these arithmetics, if they are asked for.
    """
    ours = {(each["model"], each["asked"]): each for each in here}
    waiting = set(ours)
    for found in there:
        waiting.discard((found["model"], found["asked"]))
        if "error" in found:
            clear = found["error"].startswith("ConfigError: ") and "does not compute on this CPU" in found["error"]
            right = clear and found["asked"] in may_refuse
            yield Finding(found["model"], found["asked"], f"refused: {found['error']}", right)
        else:
            yield _judge(found, ours[found["model"], "float32"], ours[found["model"], found["asked"]])
    for model, asked in sorted(waiting):
        yield Finding(model, asked, "not computed: the process ended before", False)


def _judge(found: Result, exact: Result, same: Result) -> Finding:
    key = (found["model"], found["asked"])
    arithmetic = found["computed"]
    off = distance(found["values"], exact["values"])
    right = arithmetic == found["asked"] or (found["asked"] == "auto" and arithmetic in ("float32", "bfloat16"))
    right = right and _ROUNDED.get(arithmetic, _FLOAT32).holds(off)
    said = f"{arithmetic:8}  {off} to float32 here"
    if arithmetic != "float32" and same.get("computed") == arithmetic:
        same_off = distance(found["values"], same["values"])
        right = right and _SAME[arithmetic].holds(same_off)
        said += f"; {same_off} to {arithmetic} here"
    for warning in found["warned"]:
        if "does not compute on this CPU" in warning:
            said += f"; warned: {warning}"
    return Finding(*key, said, right)


def distance(values: Any, expected: Any) -> Bound:
    """Return how far vectors N x D, or scores N, lie from what is expected; infinitely far if the shapes differ."""
    found, wanted = np.array(values, dtype=np.float64), np.array(expected, dtype=np.float64)
    if found.shape != wanted.shape:
        return Bound(np.inf, np.inf)
    angle = 0.0
    if found.ndim == 2:
        lengths = np.linalg.norm(found, axis=1) * np.linalg.norm(wanted, axis=1)
        angle = max(0.0, float((1 - (found * wanted).sum(axis=1) / lengths).max()))
    return Bound(angle, float(np.abs(found - wanted).max()))
