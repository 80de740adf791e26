"""Where a model that `device_map` placed gets its inputs."""

import pytest
import torch
from transformers import BertConfig, BertModel

from zh_retrieval.local.torch_models import input_device

CUDA = torch.device("cuda:0")  # what "auto" means on the machine of the example


@pytest.mark.parametrize(
    ("embeddings", "expected"),
    [("cpu", "cpu"), ("meta", "cuda:0")],  # placed on the host; kept there, and moved to the GPU for each call
)
def test_token_ids_go_where_the_embeddings_are(embeddings, expected):
    sizes = {"vocab_size": 9, "hidden_size": 8, "num_attention_heads": 2, "intermediate_size": 8}
    with torch.device(embeddings):
        body = BertModel(BertConfig(num_hidden_layers=1, **sizes))
    assert input_device(body, CUDA) == torch.device(expected)
