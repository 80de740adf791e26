"""What a machine's memory and features decide."""

import pytest
import torch

from zh_retrieval.engine.hardware import fitting_tokens, resolve_device
from zh_retrieval.errors import ConfigError

GIB = 2**30


def test_the_token_budget_of_a_gpu_follows_its_free_memory():
    assert fitting_tokens(60 * GIB, 30_000) == 32_768  # more would not be faster
    assert fitting_tokens(1 * GIB, 131_072) == 4096
    assert fitting_tokens(100 * 2**20, 131_072) == 2048  # less is halved when it does not fit


@pytest.mark.parametrize(
    "name",
    ["cuda:abc", "cuda:", "cuda:-1", "cuda:1.0", "cuda:0x1", "cuda: 1", "cuda:١", "cpu:7x", "cpu:", "cpu:1", "mps:2",
     "CPU", "cpu ", "", "auto:0", "gpu"],
)  # fmt: skip
def test_a_name_that_means_no_device_is_refused(name):
    with pytest.raises(ConfigError, match=r"is unknown\. Use 'auto', 'cpu', 'cuda', 'cuda:N'"):
        resolve_device(name)


@pytest.mark.parametrize("name", ["cpu", "cpu:0"])
def test_the_cpu_is_one_device(name):
    assert resolve_device(name) == "cpu"


def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ConfigError, match=r"device='cuda:99' is not present: torch .* sees"):
        resolve_device("cuda:99")


def test_cuda_without_a_number_is_the_applications_current_device(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [resolve_device(name)[-1] for name in ("auto", "cuda", "cuda:0", "cuda:1")] == ["1", "1", "0", "1"]
