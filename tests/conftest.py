"""Fixtures that many tests share: the built-in model, loaded once."""

import pytest

import zh_retrieval as zr


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch):
    from zh_retrieval.options import ENVIRONMENT

    for name in (*ENVIRONMENT.values(), "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture(scope="session")
def encoder():
    """Return the built-in model in float32 on the CPU."""
    with zr.load_encoder("e5-small-zh", device="cpu", dtype="float32", private=True) as loaded:
        yield loaded
