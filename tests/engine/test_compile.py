"""A compiled body gives what the body gives, and one compilation serves all lengths. No C compiler is needed here."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend

import zh_retrieval as zr
from tests import golden
from tests.golden.recipe import write
from tests.tiny_models import tiny_bert, tiny_gte, tiny_mistral
from zh_retrieval.checkpoint.folder import open_folder
from zh_retrieval.checkpoint.load import Placement, load_checkpoint
from zh_retrieval.engine.compile import Compiled
from zh_retrieval.engine.torch_engine import TorchEngine
from zh_retrieval.layers.readout import pooled
from zh_retrieval.sequence import Tokens

CPU = torch.device("cpu")
BATCHES = [(5,), (9, 9, 3), (40, 7, 7, 7, 2), (130, 11), (64, 64), (2, 1, 1)]


def engine(body, spec):
    return TorchEngine(
        body, pooled(spec.pooling), device=CPU, dtype=torch.float32, width=64, max_batch_tokens=512, packed=True
    )


@pytest.fixture(params=["bge-base-zh", "e5-mistral", "jina-base-zh", "gte-multilingual-base"])
def loaded(request, tmp_path):
    spec = zr.get_spec(request.param)
    if spec.architecture == "jina-bert":
        write(Path(golden.__file__).parent / "jina", tmp_path)
    else:
        {"bert": tiny_bert, "mistral": tiny_mistral, "gte": tiny_gte}[spec.architecture](tmp_path)
    return load_checkpoint(open_folder(tmp_path, spec, trusted_sizes=True), spec, Placement(torch.float32)).body, spec


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_compiled_vectors_are_the_same_and_lengths_need_no_other_code(loaded):
    body, spec = loaded
    counter = CompileCounterWithBackend("aot_eager")
    torch._dynamo.reset()
    plain, compiled = engine(body, spec), engine(Compiled(body, counter), spec)
    for lengths in BATCHES:
        tokens = [Tokens([4 + (7 * n + i) % 60 for i in range(length)]) for n, length in enumerate(lengths)]
        np.testing.assert_allclose(compiled.run(tokens), plain.run(tokens), atol=1e-5)
    assert counter.frame_count <= 3  # one more may come where a size of 1 is first met


def test_what_cannot_be_compiled_is_said():
    def refuses(*_):
        raise RuntimeError("no compiler")

    with pytest.raises(zr.ConfigError, match="compile=True does not work with torch"):
        Compiled(torch.nn.Linear(2, 2), refuses)(input=torch.ones(1, 2))
