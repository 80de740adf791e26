"""The published checkpoints against their published values, where they are on this machine.

`make test-weights` runs these alone. A model is tested if its snapshot is in a cache of this machine, or if
ZH_RETRIEVAL_TEST_DOWNLOAD=1 allows a download (0.2 to 15 GB each) and a hub answers; else it is skipped, with the
reason. The built-in model is always tested, by the same code.
"""

import os

import pytest
import torch

from zh_retrieval.hub.cache import locate
from zh_retrieval.hub.download import fetch, reachable
from zh_retrieval.recipes.catalogue import MODELS
from zh_retrieval.recipes.published import PUBLISHED
from zh_retrieval.selftest import selftest

CACHE = os.environ.get("ZH_RETRIEVAL_CACHE")  # read here: a fixture unsets it
DOWNLOAD = "ZH_RETRIEVAL_TEST_DOWNLOAD"
LARGE = 2_000_000_000


def dtype_of(spec):
    return "bfloat16" if spec.parameters > LARGE else "float32"


def memory():
    """Return the bytes of the device that "auto" chooses."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def reason_to_skip(spec, cache_dir):
    """Return why a model cannot be tested here; None if it is present, or was downloaded just now."""
    needed = spec.parameters * (2 if spec.parameters > LARGE else 4) * 1.2
    if memory() < needed:
        return f"needs {needed / 1e9:.0f} GB of memory"
    state = locate(spec, cache_dir=cache_dir)
    if state.status == "present":
        return None
    if os.environ.get(DOWNLOAD) != "1":
        return f"{state.status} here, and {DOWNLOAD}=1 is not set"
    if not any(reachable(hub) for hub in {source.hub for source in spec.sources}):
        return f"{state.status} here, and no hub answers"
    fetch(spec, cache_dir=cache_dir)
    return None


@pytest.mark.weights
@pytest.mark.parametrize("spec", MODELS, ids=lambda spec: spec.name)
def test_published_weights_give_the_published_values(spec):
    if reason := reason_to_skip(spec, CACHE):
        pytest.skip(reason)
    checks = selftest(spec, dtype=dtype_of(spec), cache_dir=CACHE)
    assert len(checks) >= (6 if spec.name in PUBLISHED else 5)
    assert [check for check in checks if not check.passed] == []
