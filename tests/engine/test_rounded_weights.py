"""Rounding, and the file in which rounded weights are kept."""

import os
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from zh_retrieval.checkpoint.stored import Stored
from zh_retrieval.engine.openvino.weights import keeping, rounding
from zh_retrieval.engine.openvino.weights.keeping import rounded_weights
from zh_retrieval.engine.openvino.weights.kept import RoundedWeights, identity
from zh_retrieval.engine.openvino.weights.rounding import Form

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
    with rounded_weights(folder, lambda: name, size) as weights:
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
        with rounded_weights(tmp_path, lambda: "name", LARGE) as weights:
            weights.take("w", Stored("F32", weight()), FORM)
            raise RuntimeError("no such model")

    with pytest.raises(RuntimeError, match="no such model"):
        fails()
    assert [each.name for each in tmp_path.iterdir() if not each.name.endswith(".lock")] == []


def test_starts_at_once_round_once(tmp_path):
    rounded, barrier = [], threading.Barrier(4)

    def start():
        barrier.wait()
        with rounded_weights(tmp_path, lambda: "name", LARGE) as weights:
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

    monkeypatch.setenv(keeping.ENVIRONMENT, said)
    assert keeping.keeping_folder(Path("cache")) == (None if where is None else Path(where))


def test_an_identity_is_that_of_the_weights_and_of_the_rounding():
    assert len({identity("a", "int8"), identity("a", "int4"), identity("b", "int8"), identity("a", "int8")}) == 3


def protected(folder, monkeypatch):
    """Let a folder be as one that belongs to another user: tests may run as root, whom no mode stops."""
    access, opened = os.access, os.open

    def may(path, mode, **options):
        return not (mode & os.W_OK and Path(path) == folder) and access(path, mode, **options)

    def refusing(path, flags, *more, **options):
        if flags & (os.O_WRONLY | os.O_RDWR) and Path(path).parent == folder:
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, flags, *more, **options)

    monkeypatch.setattr(os, "access", may)
    monkeypatch.setattr(os, "open", refusing)
    monkeypatch.setattr(os, "utime", lambda path: refusing(path, os.O_WRONLY))


def test_a_folder_that_cannot_be_written_to_is_read(tmp_path, monkeypatch):
    first = use(tmp_path, weight())
    before = sorted(tmp_path.iterdir())
    protected(tmp_path, monkeypatch)
    np.testing.assert_array_equal(use(tmp_path), first)
    np.testing.assert_array_equal(use(tmp_path, weight(), name="other"), first)  # rounded, and not kept
    assert sorted(tmp_path.iterdir()) == before


def test_a_lock_of_another_user_stops_nobody(tmp_path, monkeypatch):
    opened = os.open

    def refusing(path, *more, **options):
        if str(path).endswith(".lock"):
            raise PermissionError(13, "Permission denied", str(path))
        return opened(path, *more, **options)

    monkeypatch.setattr(os, "open", refusing)
    first = use(tmp_path, weight())
    np.testing.assert_array_equal(use(tmp_path), first)


def test_a_lock_is_for_everybody_who_shares_the_folder(tmp_path):
    use(tmp_path, weight())
    assert (tmp_path / "name.weights.lock").stat().st_mode & 0o666 == 0o666


def test_what_no_start_used_for_a_month_goes_when_another_is_written(tmp_path):
    for name in ("old", "fresh"):
        use(tmp_path, weight(), name=name)
    for name, days in (("old", 40), ("fresh", 20)):
        past = time.time() - days * 24 * 3600
        os.utime(tmp_path / f"{name}.weights", (past, past))
    (tmp_path / "killed.1.partial").write_bytes(b"half")
    os.utime(tmp_path / "killed.1.partial", (1, 1))
    assert [path.name for path, *_ in keeping.kept_files(tmp_path)] == ["old.weights", "fresh.weights"]
    use(tmp_path, name="fresh")  # a use makes it young again
    use(tmp_path, weight(), name="new")
    assert [path.name for path, *_ in keeping.kept_files(tmp_path)] == ["fresh.weights", "new.weights"]
    assert not list(tmp_path.glob("*.partial"))


@pytest.mark.skipif(not os.path.ismount("/dev/shm"), reason="no file system in memory")
def test_a_temporary_file_does_not_lie_in_memory(monkeypatch):
    assert keeping._is_memory(Path("/dev/shm"))
    places, made = [], tempfile.TemporaryFile
    monkeypatch.setattr(tempfile, "tempdir", "/dev/shm")
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: places.append(options["dir"]) or made(**options))
    use(None, weight())
    assert "/dev/shm" not in places


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
