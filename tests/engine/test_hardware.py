"""What a machine's memory and features decide."""

from zh_retrieval.engine.hardware import fitting_tokens

GIB = 2**30


def test_the_token_budget_of_a_gpu_follows_its_free_memory():
    assert fitting_tokens(60 * GIB, 30_000) == 32_768  # more would not be faster
    assert fitting_tokens(1 * GIB, 131_072) == 4096
    assert fitting_tokens(100 * 2**20, 131_072) == 2048  # less is halved when it does not fit
