"""The two ways in which a CPU computes a model: both must give the reference's numbers."""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.without_torch import PRESENT
from zh_retrieval.local import building

ENGINES = ("graph", "torch") if PRESENT else ("graph",)


@contextmanager
def computed_by(engine: str) -> Iterator[None]:
    """Load models so that OpenVINO computes them ("graph": a model without one is a failure) or torch does."""
    reasons = []
    asked = building.why_torch

    def why_torch(*arguments):
        reason = asked(*arguments) if engine == "graph" else "a test asks for it"
        reasons.append(reason)
        return reason

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(building, "why_torch", why_torch)
        yield
    if engine == "graph":
        assert reasons == [None] * len(reasons)


def load_by(engine, load, *arguments, **options):
    """Return what `load` gives, computed by one of `ENGINES`."""
    with computed_by(engine):
        return load(*arguments, **options)
