"""Short queries from a recorded forward pass; the recording here runs again what a CUDA graph would start again."""

from pathlib import Path

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from tests import golden
from tests.golden.recipe import write
from tests.tiny_models import tiny_bert, tiny_mistral, tiny_xlmr_reranker
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.layers.packing import pack
from zh_retrieval.sequence import Tokens

CPU = torch.device("cpu")
LENGTHS = [1, 5, 16, 17, 40, 63, 64]


def again(run):
    """Record as CUDA does: one tensor for every result, written anew from what lies in the inputs' memory."""
    result = run().clone()
    return result, lambda: result.copy_(run())


def broken(run):
    raise RuntimeError("operation not permitted when stream is capturing")


def batch(length, offset=0, start=5):
    return pack([Tokens(list(range(start, start + length)))], CPU, offset)


@pytest.fixture(params=["bert", "xlm-roberta", "mistral", "jina"], scope="module")
def engine(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    options = {"path": folder, "device": "cpu", "dtype": "float32"}
    if request.param == "xlm-roberta":
        tiny_xlmr_reranker(folder)
        handle = zr.load_reranker("bge-reranker-large", **options)
    elif request.param == "jina":
        write(Path(golden.__file__).parent / "jina", folder)
        handle = zr.load_encoder("jina-base-zh", **options)
    else:
        {"bert": tiny_bert, "mistral": tiny_mistral}[request.param](folder)
        handle = zr.load_encoder({"bert": "bge-base-zh", "mistral": "e5-mistral"}[request.param], **options)
    with handle:
        yield handle._model.engine


@torch.inference_mode()
def test_a_recorded_query_equals_the_packed_one(engine):
    offset = engine._position_offset
    graphs = QueryGraphs(engine._body, CPU, 512, offset, again)
    for length in [*LENGTHS, *LENGTHS[::-1]]:  # what a longer query left behind is not seen
        one = batch(length, offset, start=5 + length % 3)
        np.testing.assert_allclose(graphs.hidden(one), engine._forward_packed(one), atol=1e-5)


@torch.inference_mode()
def test_other_batches_are_left_alone(engine):
    graphs = QueryGraphs(engine._body, CPU, 32, engine._position_offset, again)
    assert graphs.hidden(batch(33)) is None  # beyond what the model takes
    assert QueryGraphs(engine._body, CPU, 512, 0, again).hidden(batch(65)) is None
    assert graphs.hidden(pack([Tokens([5]), Tokens([6])], CPU)) is None


def test_a_machine_that_cannot_record_goes_on_without(engine):
    graphs = QueryGraphs(engine._body, CPU, 512, engine._position_offset, broken)
    assert graphs.hidden(batch(8)) is None
    assert graphs._buckets == []
