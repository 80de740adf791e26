"""Short queries from a recorded forward pass; the recording here runs again what a CUDA graph would start again."""

import logging
import weakref
from pathlib import Path

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from tests import golden
from tests.engines import load_by
from tests.golden.recipe import write
from tests.tiny_models import tiny_bert, tiny_gte, tiny_mistral, tiny_xlmr_reranker
from zh_retrieval.engine.cuda_graphs import QueryGraphs
from zh_retrieval.engine.torch_engine import TorchEngine
from zh_retrieval.layers.forward import packed_hidden
from zh_retrieval.layers.packing import pack
from zh_retrieval.sequence import Tokens

CPU = torch.device("cpu")
LENGTHS = [1, 5, 16, 17, 40, 63, 64]


def again(run):
    """Record as CUDA does: one tensor for every result, written anew from what lies in the inputs' memory.

    Like a graph it knows addresses, and keeps no tensor of `run` alive: the one who records does.
    """
    result, recorded = run().clone(), weakref.ref(run)

    def replay():
        kept = recorded()
        assert kept is not None, "the memory of what was recorded belongs to others now"
        result.copy_(kept())

    return result, replay


def broken(run):
    raise RuntimeError("operation not permitted when stream is capturing")


def batch(length, offset=0, start=5):
    return pack([Tokens(list(range(start, start + length)))], CPU, offset)


@pytest.fixture(params=["bert", "xlm-roberta", "mistral", "jina", "gte"], scope="module")
def engine(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp(request.param)
    options = {"path": folder, "device": "cpu", "dtype": "float32"}
    if request.param == "xlm-roberta":
        tiny_xlmr_reranker(folder)
        handle = load_by("torch", zr.load_reranker, "bge-reranker-large", **options)
    elif request.param == "jina":
        write(Path(golden.__file__).parent / "jina", folder)
        handle = load_by("torch", zr.load_encoder, "jina-base-zh", **options)
    else:
        {"bert": tiny_bert, "mistral": tiny_mistral, "gte": tiny_gte}[request.param](folder)
        name = {"bert": "bge-base-zh", "mistral": "e5-mistral", "gte": "gte-multilingual-base"}[request.param]
        handle = load_by("torch", zr.load_encoder, name, **options)
    with handle:
        yield handle._model.engine


@torch.inference_mode()
def test_a_recorded_query_equals_the_packed_one(engine):
    offset = engine._position_offset
    graphs = QueryGraphs(engine._body, CPU, 512, offset, again)
    for length in [*LENGTHS, *LENGTHS[::-1]]:  # what a longer query left behind is not seen
        one = batch(length, offset, start=5 + length % 3)
        np.testing.assert_allclose(graphs.hidden(one), packed_hidden(engine._body, one), atol=1e-5)


@torch.inference_mode()
def test_other_batches_are_left_alone(engine):
    graphs = QueryGraphs(engine._body, CPU, 32, engine._position_offset, again)
    assert graphs.hidden(batch(33)) is None  # beyond what the model takes
    assert QueryGraphs(engine._body, CPU, 512, 0, again).hidden(batch(65)) is None
    assert graphs.hidden(pack([Tokens([5]), Tokens([6])], CPU)) is None


def test_a_machine_that_cannot_record_goes_on_without(engine, caplog):
    graphs = QueryGraphs(engine._body, CPU, 512, engine._position_offset, broken)
    assert [graphs.hidden(batch(length)) for length in (8, 8, 40)] == [None] * 3
    [record] = caplog.records  # once, with the reason
    assert record.levelno == logging.WARNING
    assert "not permitted when stream is capturing" in record.getMessage()


class Full:
    """Records as `again`, once memory is there; counts how often it was asked."""

    def __init__(self):
        self.asked, self.full = 0, True

    def __call__(self, run):
        self.asked += 1
        if self.full:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return again(run)


@torch.inference_mode()
def test_memory_that_runs_out_while_recording_does_not_end_recording(engine, caplog):
    record = Full()
    graphs = QueryGraphs(engine._body, CPU, 512, engine._position_offset, record)
    with pytest.raises(torch.OutOfMemoryError):
        graphs.hidden(batch(8))
    record.full = False
    waited = [graphs.hidden(batch(8)) for _ in range(400)]
    assert waited[0] is None  # not at once again: it would fail at every query
    assert waited[-1] is not None
    assert record.asked == 2
    assert not caplog.records


def test_a_query_whose_recording_does_not_fit_is_computed_without(engine):
    graphs = QueryGraphs(engine._body, CPU, 512, engine._position_offset, Full())
    made = TorchEngine(
        engine._body, engine._readout, device=CPU, dtype=torch.float32, width=engine.width, max_batch_tokens=512,
        position_offset=engine._position_offset, graphs=graphs,
    )  # fmt: skip
    query = [Tokens([5, 6, 7, 8])]
    np.testing.assert_allclose(made.run(query), engine.run(query), atol=1e-5)


def test_a_pair_whose_second_text_has_another_type_is_not_run_from_a_graph_of_one_type():
    graphs = QueryGraphs(torch.nn.Identity(), CPU, 512, 0, broken)
    pair = pack([Tokens([101, 5, 102, 6, 102], second=3), Tokens([101, 7])], CPU)
    assert pair.token_types is not None
    assert pair.token_types.tolist() == [[0, 0, 0, 1, 1, 0, 0]]
    assert pack([Tokens([101, 7])], CPU).token_types is None
    alone = pack([Tokens([101, 5, 102, 6, 102], second=3)], CPU)
    assert graphs.hidden(alone) is None
    assert graphs._buckets  # nothing was recorded, so nothing was given up
