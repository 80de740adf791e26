"""Fixtures that many tests share: the built-in model, loaded once."""

import logging
import signal

import pytest

import zh_retrieval as zr
from tests.depth import DEPTH
from tests.engines import ENGINES, computed_by
from tests.without_torch import PRESENT, asked_by_a_test, needs_torch

if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:  # a shell's job in the background, which programs of ours inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_ignore_collect(collection_path):
    """Leave out what makes checkpoints with torch where there is none."""
    return True if not PRESENT and collection_path.suffix == ".py" and needs_torch(collection_path) else None


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup():
    """Skip a test that makes a checkpoint with torch where there is none; the package itself may not ask for it."""
    return (yield from skipped_without_torch())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call():
    """Skip as `pytest_runtest_setup` does."""
    return (yield from skipped_without_torch())


def skipped_without_torch():
    try:
        return (yield)
    except ModuleNotFoundError as error:
        if not PRESENT and asked_by_a_test(error):
            pytest.skip(f"needs {error.name}")
        raise


def pytest_collection_modifyitems(items):
    """Give what takes long by its nature more time than a hang is given."""
    for item in items:
        long = item.get_closest_marker("slow") or (DEPTH > 1 and item.get_closest_marker("hypothesis"))
        if long and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(900))


@pytest.fixture(autouse=True)
def _no_user_settings(monkeypatch):
    from zh_retrieval.options import ENVIRONMENT

    for name in ENVIRONMENT.values():  # a test may have set them
        monkeypatch.delenv(name, raising=False)
    logger = logging.getLogger("zh_retrieval")
    level = logger.level
    yield
    logger.setLevel(level)  # the command line sets it for its program


@pytest.fixture
def registered(monkeypatch):
    """Return what registers a recipe for one test and gives back its name, which adapters take."""
    from zh_retrieval.recipes import registry

    monkeypatch.setattr(registry, "_registered", registry._registered)
    monkeypatch.setattr(registry, "_known", registry._known)

    def register(spec):
        zr.register_model(spec)
        return spec.name

    return register


@pytest.fixture(scope="session")
def encoder():
    """Return the built-in model in float32 on the CPU."""
    with zr.load_encoder("e5-small-zh", device="cpu", dtype="float32", private=True) as loaded:
        yield loaded


@pytest.fixture(params=ENGINES)
def each_engine(request):
    """Have what the test loads computed by each engine in turn."""
    with computed_by(request.param):
        yield request.param
