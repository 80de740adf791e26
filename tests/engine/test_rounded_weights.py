"""Rounding, and the file in which rounded weights are kept."""

import os
import threading
from pathlib import Path

import numpy as np
import pytest

from zh_retrieval.checkpoint.tensors import Stored
from zh_retrieval.engine.openvino import kept, rounding
from zh_retrieval.engine.openvino.kept import RoundedWeights, identity, keeping_folder, rounded_weights
from zh_retrieval.engine.openvino.rounding import Form

FORM = Form.of("int8", 300, 1536)
LARGE = 2_000_000_000  # bytes that are said to come, so that a file is used


def weight(rows=300, width=1536, seed=0):
    return np.random.default_rng(seed).standard_normal((rows, width)).astype(np.float32)


def widened(arrays, form):
    codes, scales = arrays
    if form.kind == "int4":
        parts = np.stack([codes & 15, codes >> 4], axis=-1).reshape(form.outputs, form.inputs).astype(np.int8)
        codes = np.where(parts > 7, parts - 16, parts)
    return (codes.reshape(-1, form.group) * scales.reshape(-1, 1)).reshape(form.outputs, form.inputs)


@pytest.mark.parametrize(
    ("kind", "steps"), [("int8-rows", 0.501), ("int8-256", 0.501), ("int8", 0.501), ("int4", 1.001)]
)
def test_no_number_is_off_by_more_than_half_a_step(kind, steps):
    values, form = weight(), Form.of(kind, 300, 1536)
    arrays = RoundedWeights().take("w", Stored("F32", values), form)
    off = np.abs(widened(arrays, form) - values).reshape(-1, form.group)
    assert np.all(off <= steps * np.abs(arrays[1]).reshape(-1, 1))  # in int4 the farthest number of one side is cut
    assert off.max() > 0


def test_bfloat16_rounds_as_torch_does():
    import torch

    values = np.concatenate([weight(), np.full((1, 1536), np.inf, np.float32)])
    (bits,) = RoundedWeights().take("w", Stored("F32", values), Form.of("bfloat16", *values.shape))
    expected = torch.from_numpy(values).bfloat16().view(torch.uint16).numpy()
    np.testing.assert_array_equal(bits, expected)


@pytest.mark.parametrize(
    ("asked", "width", "kind", "group"),
    [
        ("int4", 1536, "int4", 128), ("int8", 1536, "int8", 128), ("int8", 576, "int8", 64),
        ("int8", 50, "int8-rows", 50), ("int8-256", 1536, "int8-256", 256), ("int8-256", 384, "int8-256", 128),
        ("int4", 50, "int8-rows", 50),
    ],
)  # fmt: skip
def test_a_group_is_the_largest_that_divides_a_row(asked, width, kind, group):
    found = Form.of(asked, 3, width)
    assert (found.kind, found.group) == (kind, group)


@pytest.mark.parametrize("kind", ["bfloat16", "int8-rows", "int8-256", "int8", "int4"])
@pytest.mark.parametrize("fault", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_known_by_its_name(kind, fault):
    values = weight()
    values[299, 700] = fault
    weights = RoundedWeights()
    with np.errstate(invalid="ignore"):
        weights.take("good", Stored("F32", weight()), Form.of(kind, 300, 1536))
        weights.take("bad", Stored("F32", values), Form.of(kind, 300, 1536))
    assert weights.not_finite == ["bad"]


def use(folder, values=None, name="name", size=LARGE):
    """Return the numbers that a start sees; `values` None fails if it would have to round."""
    seen = []
    with rounded_weights(folder, name, size) as weights:
        for kind in ("int8", "int4"):
            form = Form.of(kind, 300, 1536)
            stored = Stored("F32", values) if values is not None else None
            seen.append(widened(weights.take(kind, stored, form), form).copy())
    return np.stack(seen)


def test_a_second_start_reads_no_checkpoint(tmp_path):
    first = use(tmp_path, weight())
    np.testing.assert_array_equal(use(tmp_path), first)
    assert sorted(each.name for each in tmp_path.iterdir() if not each.name.endswith(".lock")) == ["name.weights"]


@pytest.mark.parametrize("where", [0, 200_000, -1, -60, -200])
def test_a_damaged_file_is_made_anew(tmp_path, where, caplog):
    use(tmp_path, weight())
    file = tmp_path / "name.weights"
    raw = bytearray(file.read_bytes())
    raw[where] ^= 16
    file.write_bytes(raw)
    expected = use(None, weight(seed=1))
    np.testing.assert_array_equal(use(tmp_path, weight(seed=1)), expected)
    assert "is damaged" in caplog.text
    np.testing.assert_array_equal(use(tmp_path), expected)


@pytest.mark.parametrize("size", [0, 30, 4096, 300_000])
def test_a_cut_file_is_made_anew(tmp_path, size):
    use(tmp_path, weight())
    os.truncate(tmp_path / "name.weights", size)
    np.testing.assert_array_equal(use(tmp_path, weight(seed=1)), use(None, weight(seed=1)))


def test_a_failed_start_keeps_nothing(tmp_path):
    def fails():
        with rounded_weights(tmp_path, "name", LARGE) as weights:
            weights.take("w", Stored("F32", weight()), FORM)
            raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        fails()
    assert [each.name for each in tmp_path.iterdir() if not each.name.endswith(".lock")] == []


def test_starts_at_once_round_once(tmp_path):
    rounded, barrier = [], threading.Barrier(4)

    def start():
        barrier.wait()
        with rounded_weights(tmp_path, "name", LARGE) as weights:
            if not weights.kept:
                rounded.append(1)
            weights.take("w", Stored("F32", weight()), FORM)

    threads = [threading.Thread(target=start) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(rounded) == 1


def test_a_full_disk_leaves_memory(tmp_path, caplog):
    class Full:
        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, _):
            raise OSError(28, "No space left on device")

    with (tmp_path / "file").open("w+b", buffering=0) as file:
        weights = RoundedWeights(Full(file))
        found = weights.take("w", Stored("F32", weight()), FORM)
        assert not weights.finish()
    np.testing.assert_array_equal(found[0], RoundedWeights().take("w", Stored("F32", weight()), FORM)[0])
    assert "No space left" in caplog.text


def test_a_disk_without_room_is_not_filled(tmp_path):
    use(tmp_path, weight(), size=10**18)
    assert list(tmp_path.iterdir()) == []


def test_small_models_use_no_file(tmp_path):
    use(tmp_path, weight(), size=1000)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("said", "where"), [("", "cache/zh-retrieval-rounded"), ("off", None), ("/some/where", "/some/where")]
)
def test_the_environment_places_or_forbids_the_file(monkeypatch, said, where):

    monkeypatch.setenv(kept.ENVIRONMENT, said)
    assert keeping_folder(Path("cache")) == (None if where is None else Path(where))


def test_an_identity_is_that_of_the_files_and_of_the_rounding(tmp_path):
    file = tmp_path / "model.safetensors"
    raw = bytearray(os.urandom(1_000_000))
    file.write_bytes(raw)
    os.utime(file, ns=(1, 1))
    before = identity([file], "int8")
    assert before == identity([file], "int8") != identity([file], "int4")
    raw[-1] ^= 1
    file.write_bytes(raw)
    os.utime(file, ns=(1, 1))
    assert identity([file], "int8") != before
    file.write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    os.utime(file, ns=(2, 1))
    assert identity([file], "int8") == before
    os.utime(file, ns=(1, 2))
    assert identity([file], "int8") != before


def test_rounding_goes_over_blocks_without_a_seam():
    values = weight(rows=900)
    assert values.size > 3 * rounding._BLOCK
    form = Form.of("int8", 900, 1536)
    whole = widened(RoundedWeights().take("w", Stored("F32", values), form), form)
    parts = [
        widened(list(each), Form("int8", len(each[0]), 1536, 128))
        for each in rounding.blocks(Stored("F32", values), form)
    ]
    np.testing.assert_array_equal(whole, np.concatenate(parts))
