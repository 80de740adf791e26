"""What is read from the last hidden states."""

import pytest
import torch
from torch import nn

from zh_retrieval.layers.packing import pack
from zh_retrieval.layers.readout import answer_margin, pooled
from zh_retrieval.sequence import Tokens

LENGTHS = (3, 1, 5)
ENDS = [2, 3, 8]


@pytest.fixture
def batch():
    return pack([Tokens([1] * length) for length in LENGTHS], torch.device("cpu"))


def test_the_margin_is_the_difference_of_log_probabilities_of_the_last_rows(batch):
    torch.manual_seed(0)
    whole, hidden = nn.Linear(16, 11), torch.randn(9, 16)
    answers = nn.Linear(16, 2)
    with torch.no_grad():
        answers.weight.copy_(whole.weight[[7, 2]])
        answers.bias.copy_(whole.bias[[7, 2]])
        probabilities = whole(hidden[ENDS]).log_softmax(-1)
        found = answer_margin(answers)(hidden, batch)
    torch.testing.assert_close(found, probabilities[:, [7]] - probabilities[:, [2]])


@pytest.mark.parametrize("pooling", ["cls", "mean", "last"])
def test_vectors_that_are_cut_have_length_one(batch, pooling):
    torch.manual_seed(0)
    hidden = torch.randn(9, 16)
    whole, cut = pooled(pooling)(hidden, batch), pooled(pooling, 5)(hidden, batch)
    assert cut.shape == (3, 5)
    torch.testing.assert_close(cut, nn.functional.normalize(whole[:, :5], dim=-1))
