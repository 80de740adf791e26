"""A tiny bge-m3: an XLM-R, and beside it the linear layer of its sparse side."""

import pytest

from tests.tiny_models import tiny_bge_m3


@pytest.fixture(scope="session")
def m3(tmp_path_factory):
    """Return the folder of a checkpoint."""
    return tiny_bge_m3(tmp_path_factory.mktemp("m3"))
