"""Whole numbers in bfloat16: positions, lengths and distances above 256 are not exact there, so they stay whole."""

from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from tests import golden
from tests.golden.recipe import write
from tests.tiny_models import (
    tiny_bert,
    tiny_causal_lm,
    tiny_gte,
    tiny_mistral,
    tiny_qwen3,
    tiny_xlmr,
    tiny_xlmr_reranker,
)
from zh_retrieval.engine.hardware import cpu_computes_bfloat16
from zh_retrieval.engine.openvino import ops
from zh_retrieval.engine.openvino.alibi import alibi_mask
from zh_retrieval.engine.openvino.inference import Settings, compiled
from zh_retrieval.sequence import Tokens

JINA = Path(golden.__file__).parent / "jina"
KINDS = {
    "bert": ("bge-base-zh", tiny_bert),
    "xlm-r": ("bge-m3", lambda folder: tiny_xlmr(folder, positions=8194)),
    "jina": ("jina-base-zh", lambda folder: write(JINA, folder)),
    "gte": ("gte-multilingual-base", tiny_gte),
    "mistral": ("e5-mistral", tiny_mistral),
    "qwen3": ("qwen3-embedding-0.6b", tiny_qwen3),
    "rank by class": ("bge-reranker-large", lambda folder: tiny_xlmr_reranker(folder, positions=8194)),
    "rank by likelihood": ("rankinggpt", tiny_causal_lm),
}
LENGTHS = [257, 512, pytest.param(2048, marks=pytest.mark.slow), pytest.param(8192, marks=pytest.mark.slow)]


def test_distances_are_whole_numbers_until_the_last_step():
    length = ops.size(ops.inputs()[0], 1)
    mask = alibi_mask(length, 12, ops.numbers(0), length)
    waiting, seen, found = [mask], set(), []
    while waiting:
        node = waiting.pop()
        if node.get_name() in seen:
            continue
        seen.add(node.get_name())
        before = [value.get_node() for value in node.input_values()]
        waiting += before
        if node.get_type_name() in ("Subtract", "Abs", "Add", "Range"):
            found.append((node.get_type_name(), node.get_element_type().to_string()))
    assert {name for name, _ in found} >= {"Subtract", "Abs", "Add", "Range"}
    assert {dtype for _, dtype in found} == {"i32"}


@pytest.mark.parametrize(("queries", "first"), [(1030, 0), (3, 8189)])
def test_the_mask_is_minus_slope_times_distance(queries, first):
    import openvino as ov
    from openvino import opset15 as op

    sizes = [op.parameter([1], ov.Type.i32) for _ in range(3)]
    keys, low, rows = sizes
    request = compiled(ops.model([alibi_mask(keys, 4, low, rows)], sizes), Settings(False, 1))
    length = first + queries
    given = [np.array([value], dtype=np.int32) for value in (length, first, queries)]
    (found,) = request.infer(given).values()
    distance = np.abs(np.arange(first, length)[:, None] - np.arange(length)[None])
    expected = -(np.array([2.0**-2, 2.0**-4, 2.0**-6, 2.0**-8])[:, None, None]) * distance
    np.testing.assert_array_equal(found[0], expected.astype(np.float32))


@pytest.mark.skipif(not cpu_computes_bfloat16(), reason="this CPU does not multiply bfloat16 in hardware")
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", list(KINDS))
def test_long_texts_lose_no_more_than_short_ones(tmp_path, kind, length):
    model, make = KINDS[kind]
    folder = make(tmp_path)
    load = zr.load_reranker if kind.startswith("rank") else zr.load_encoder
    rows = {}
    for dtype in ("float32", "bfloat16"):
        with load(model, path=folder, device="cpu", dtype=dtype, private=True) as handle:
            if length > handle._model.length_limit:
                pytest.skip(f"{kind} reads at most {handle._model.length_limit} tokens")
            targets = (5, 6) if handle.spec.scoring == "query-likelihood" else ()
            made = [Tokens([7 + number * 7 % 40 for number in range(size)], targets=targets) for size in (128, length)]
            rows[dtype] = [handle._model.scheduler.submit([item]).result()[0] for item in made]
    short, long = (np.linalg.norm(rows["bfloat16"][place] - rows["float32"][place]) for place in (0, 1))
    assert long <= 5 * short + 0.01
