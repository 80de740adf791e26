"""Calls of an encoder on a fake engine: slices, turns, room, cancellation, closing, whatever happens in between."""

import asyncio
import copy
import gc
import io
import logging
import pickle
import subprocess
import sys
import threading
import time
import weakref
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from tests.engine.fakes import FakeEngine
from tests.tiny_models import tiny_bert
from zh_retrieval.local.call import Limits
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.local.loaded import LoadedModel
from zh_retrieval.tokenization.beginnings import Beginning

SPEC = replace(zr.get_spec("bge-base-zh"), query_template="{text}", instruction=None)


class Numbers:
    """A tokenizer whose texts are numbers: "7" is one token, 7. It can be held, as a slow one is."""

    prefix = suffix = separator = ()
    frame_length = 0
    unknown = None

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.called = threading.Event()
        self.threads = set()

    def ids(self, texts):
        self.called.set()
        self.threads.add(threading.current_thread())
        assert self.gate.wait(20)
        return [[int(text)] for text in texts]

    def beginnings(self, texts, least):
        return [Beginning(ids, True) for ids in self.ids(texts)]

    def frame(self, ids, max_length):
        return ids

    def unknown_texts(self, _):
        return 0


class Made:
    """An encoder with its engine and tokenizer."""

    def __init__(self, late, held=False, **limits):
        self.engine, self.tokenizer = FakeEngine(8, held=held, late=late), Numbers()
        self.model = LoadedModel(Path(), self.engine, self.tokenizer, 512)
        self.model.share()
        self.encoder = LocalEncoder(self.model, SPEC, 512, "truncate", Limits(**limits))


@pytest.fixture(params=[False, True], ids=["ready", "late"])
def late(request):
    return request.param


@pytest.fixture
def make(late):
    made = []

    def one(**options):
        made.append(Made(late, **options))
        return made[-1]

    yield one
    for each in made:
        each.engine.gate.set()
        each.tokenizer.gate.set()
        each.encoder.close()


def texts(*numbers):
    return [str(number) for number in numbers]


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 25])
async def test_slices_come_back_in_order(make, count):
    made = make(inputs=8)
    numbers = list(range(100, 100 + count))
    assert made.encoder.encode_documents(texts(*numbers))[:, 0].tolist() == numbers
    assert (await made.encoder.aencode_documents(texts(*numbers)))[:, 0].tolist() == numbers


def test_a_slice_holds_no_more_tokens_than_its_limit(make):
    made = make(tokens=4)
    assert made.encoder.encode_documents(["1234", "12", "1", "7", "123456"])[:, 0].tolist() == [1234, 12, 1, 7, 123456]


async def test_what_was_given_at_the_call_is_computed_whatever_becomes_of_the_list(make):
    made = make(inputs=50, held=True)
    given = texts(*range(200))
    task = asyncio.create_task(made.encoder.aencode_documents(given))
    await asyncio.sleep(0)
    given.clear()
    made.engine.gate.set()
    assert (await asyncio.wait_for(task, 20))[:, 0].tolist() == list(range(200))


async def test_a_call_cancelled_while_it_is_tokenized_is_never_computed(make):
    made = make(tokens=100_000)
    made.tokenizer.gate.clear()
    task = asyncio.create_task(made.encoder.aencode_documents(texts(*range(100_000, 102_000))))
    assert await asyncio.to_thread(made.tokenizer.called.wait, 20)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    made.tokenizer.gate.set()
    assert (await made.encoder.aencode_queries(["5"]))[0, 0] == 5
    assert made.engine.batches == [[5]]


async def test_a_call_cancelled_while_it_waits_for_room_is_never_computed(make):
    made = make(queue=1, held=True)
    bulk = [texts(*range(low, low + 70)) for low in (1000, 2000, 3000)]
    tasks = [asyncio.create_task(made.encoder.aencode_documents(part)) for part in bulk]
    await asyncio.sleep(0.05)
    tasks[1].cancel()
    with pytest.raises(asyncio.CancelledError):
        await tasks[1]
    made.engine.gate.set()
    assert (await asyncio.wait_for(tasks[2], 20))[:, 0].tolist() == list(range(3000, 3070))
    await tasks[0]
    assert not any(2000 <= number < 2070 for batch in made.engine.batches for number in batch)


async def test_a_full_queue_stops_neither_the_event_loop_nor_queries(make):
    made = make(queue=100, held=True)
    bulk = [
        asyncio.create_task(made.encoder.aencode_documents(texts(*range(n, n + 70)))) for n in range(2000, 2900, 100)
    ]
    await asyncio.sleep(0.05)
    started = time.monotonic()
    query = asyncio.create_task(made.encoder.aencode_queries(["5"]))
    await asyncio.sleep(0)
    assert time.monotonic() - started < 5  # the engine is held for longer
    made.engine.gate.set()
    assert (await asyncio.wait_for(query, 20))[0, 0] == 5
    await asyncio.wait_for(asyncio.gather(*bulk), 20)


async def test_a_refused_call_says_how_much_waits_and_takes_no_room(make):
    made = make(queue=10, when_full="refuse", held=True)
    assert made.model.scheduler.reserve(9, "interactive", limit=10) is None
    with pytest.raises(zr.OverloadedError, match="9 tokens wait already, 2 more"):
        await made.encoder.aencode_queries(["1", "2"])
    with pytest.raises(zr.OverloadedError):
        made.encoder.encode_queries(["1", "2"])
    made.model.scheduler.free(9, "interactive")
    made.engine.gate.set()
    assert made.encoder.encode_documents(texts(*range(100)))[:, 0].tolist() == list(range(100))
    assert made.encoder.encode_queries(["1", "2"])[:, 0].tolist() == [1, 2]


def test_a_text_that_cannot_be_tokenized_gives_its_room_back(make):
    made = make(queue=10)
    for _ in range(3):
        with pytest.raises(ValueError, match="tea"):
            made.encoder.encode_documents(["12345", "tea"])
    assert made.encoder.encode_documents(["12345"])[0, 0] == 12345
    assert made.model.scheduler._room.tokens("interactive") == 0


class Gone(io.StringIO):
    """A standard error whose reader went away."""

    def write(self, _):
        raise BrokenPipeError("gone")


@pytest.mark.parametrize("stream", [None, Gone()], ids=["None", "gone"])
async def test_progress_without_a_standard_error_does_not_stop_the_work(make, monkeypatch, stream):
    made = make(inputs=8)
    monkeypatch.setattr(sys, "stderr", stream)
    numbers = list(range(40))
    assert made.encoder.encode_documents(texts(*numbers), show_progress=True)[:, 0].tolist() == numbers
    found = await made.encoder.aencode_documents(texts(*numbers), show_progress=True)
    assert found[:, 0].tolist() == numbers


@pytest.mark.parametrize(
    ("given", "inline"), [(["7"], True), (["7".rjust(100_000)], False), (["1".rjust(41)] * 100, False)]
)
async def test_much_text_is_tokenized_beside_the_event_loop(make, given, inline):
    made = make()
    await made.encoder.aencode_documents(given)
    assert (made.tokenizer.threads == {threading.current_thread()}) is inline


@pytest.mark.parametrize("held", [0, 4])
async def test_a_short_text_does_not_wait_for_long_ones(make, held):
    """Four threads that read long texts are all there are of these."""
    slow, made = make(), make()
    slow.tokenizer.gate.clear()
    long = [asyncio.create_task(slow.encoder.aencode_documents(["7".rjust(1_000_000)])) for _ in range(held)]
    await asyncio.sleep(0)
    rows = await asyncio.wait_for(made.encoder.aencode_documents(["1"] * 5000), 20)
    assert rows[0, 0] == 1
    slow.tokenizer.gate.set()
    assert [rows[0, 0] for rows in await asyncio.gather(*long)] == [7] * held


@pytest.mark.parametrize(
    ("given", "limits", "sizes"),
    [
        ([10, 10, 10], {}, [3]),
        ([10, 10, 10], {"inputs": 2}, [2, 1]),
        ([10, 10, 10], {"tokens": 20}, [2, 1]),
        ([10, 10, 10], {"queue": 20}, [2, 1]),  # what waits at once is what may wait
        ([9_000_000] * 40, {}, [40]),  # the model reads 512 tokens of each, and the tokenizer few characters
        ([9_000_000] * 40, {"characters": 10_000}, [3] * 13 + [1]),
    ],
)
def test_a_slice_has_at_most(make, given, limits, sizes):
    made = make(**limits)
    call = made.encoder._documents([f"{7:{length}d}" for length in given])
    slices = list(call.slices(made.encoder._limits))
    assert [part.high - part.low for part in slices] == sizes
    assert sum(part.characters for part in slices) == sum(given)
    assert max(part.tokens for part in slices) <= made.encoder._limits.tokens


@pytest.mark.parametrize(
    ("given", "rate", "priority"),
    [
        (["7"], 1.0, "interactive"),
        (["7".rjust(500)] * 60, 100.0, "bulk"),
        (["7".rjust(500)] * 60, 1e6, "interactive"),
        (["7".rjust(500)] * 5000, 1e9, "bulk"),  # more than one slice
    ],
)
def test_a_call_is_bulk_if_it_takes_this_engine_long(make, monkeypatch, given, rate, priority):
    made = make()
    made.model.scheduler.batcher.pace.rate = rate
    asked = []
    reserve = made.model.scheduler.reserve
    monkeypatch.setattr(
        made.model.scheduler, "reserve", lambda *some, **named: asked.append(some[1]) or reserve(*some, **named)
    )
    made.encoder.encode_documents(given)
    assert set(asked) == {priority}


def test_progress_reaches_the_end(make, monkeypatch):
    made = make(inputs=8)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    made.encoder.encode_documents(texts(*range(40)), show_progress=True)
    assert "40/40" in sys.stderr.getvalue()


@pytest.mark.parametrize("how", ["close", "with", "close_all", "del"])
def test_weights_are_free_at_once(tmp_path, how):
    encoder = zr.load_encoder("bge-base-zh", path=tiny_bert(tmp_path), device="cpu")
    other = zr.load_encoder("bge-base-zh", path=tmp_path, device="cpu")
    encoder.encode_documents(["好"])
    alive = weakref.ref(encoder._model.engine)
    if how == "close_all":
        zr.close_all()
        with pytest.raises(zr.ClosedError):
            other.encode_documents(["好"])
    else:
        other.close()
        assert alive() is not None
        if how == "close":
            encoder.close()
        elif how == "with":
            with encoder:
                pass
        else:
            model = encoder._model
            del encoder
            model.scheduler.join(10)
    gc.collect()
    assert alive() is None
    if how != "del":
        assert (encoder.dimension, str(encoder.device)) == (64, "cpu")
        with pytest.raises(zr.ClosedError):
            encoder.encode_documents(["好"])
        with pytest.raises(zr.ClosedError):
            encoder.warmup()


async def test_closing_waits_for_nothing_and_aclose_for_the_end(make):
    made = make(held=True)
    call = asyncio.create_task(made.encoder.aencode_queries(["1"]))
    assert await asyncio.to_thread(made.engine.started.wait, 20)
    made.encoder.close()
    ending = asyncio.create_task(made.encoder.aclose())
    await asyncio.sleep(0.05)
    assert not ending.done()
    made.engine.gate.set()
    await asyncio.wait_for(ending, 20)
    assert (await call)[0, 0] == 1  # its batch was under way


def test_a_session_that_is_collected_lets_its_running_call_end(make):
    made = make(held=True)
    found = []
    caller = threading.Thread(target=lambda encoder: found.append(encoder.encode_documents(["7"])), args=[made.encoder])
    caller.start()
    assert made.engine.started.wait(20)
    model, made.encoder = made.model, Made(False).encoder
    gc.collect()
    made.engine.gate.set()
    caller.join(20)
    assert found[0][0, 0] == 7
    del caller
    gc.collect()
    model.scheduler.ended.result(20)


@pytest.mark.parametrize("kind", ["bulk", "interactive"])
async def test_a_session_whose_call_was_failed_by_closing_is_collected(make, kind):
    """Its finalizer holds the model: what the model keeps of a call would keep the session, and that the model."""
    made = make(held=True)
    encode = made.encoder.aencode_documents if kind == "bulk" else made.encoder.aencode_queries
    given = texts(*range(2000, 2100 if kind == "bulk" else 2010))
    first = asyncio.create_task(made.encoder.aencode_queries(["1"]))
    assert await asyncio.to_thread(made.engine.started.wait, 20)
    waiting = asyncio.create_task(encode(given))
    await asyncio.sleep(0.05)
    made.model.close()
    found = await asyncio.gather(waiting, return_exceptions=True)
    assert isinstance(found[0], zr.ClosedError)
    made.engine.gate.set()
    await first
    await asyncio.to_thread(made.model.scheduler.join, 20)
    alive = weakref.ref(made.encoder)
    made.encoder = Made(False).encoder
    del encode, waiting, first, found
    await asyncio.sleep(0)
    gc.collect()
    assert alive() is None


def test_a_model_whose_worker_died_is_loaded_anew(tmp_path, caplog):
    folder = tiny_bert(tmp_path)
    encoder = zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="float32")
    expected = encoder.encode_documents(["好"])
    scheduler = encoder._model.scheduler

    class Broken:
        max_batch_tokens = 8

        def launch(self, _):
            raise SystemExit(1)

    scheduler.batcher.engine = Broken()
    with caplog.at_level(logging.ERROR), pytest.raises(zr.ClosedError, match="SystemExit"):
        encoder.encode_documents(["好"])
    assert encoder.closed
    with zr.load_encoder("bge-base-zh", path=folder, device="cpu", dtype="float32") as again:
        np.testing.assert_array_equal(again.encode_documents(["好"]), expected)


@pytest.mark.parametrize("send", [pickle.dumps, copy.deepcopy, copy.copy])
def test_weights_do_not_travel(make, send):
    with pytest.raises(TypeError, match="Send its name and options"):
        send(make().encoder)


def test_two_recipes_of_one_folder_share_nothing(tmp_path):
    folder = tiny_bert(tmp_path)
    spec = zr.get_spec("bge-base-zh")
    with (
        zr.load_encoder(spec, path=folder, device="cpu") as cls,
        zr.load_encoder(replace(spec, pooling="mean"), path=folder, device="cpu") as mean,
    ):
        assert cls._model is not mean._model
        assert not np.allclose(cls.encode_documents(["好天气"]), mean.encode_documents(["好天气"]))


def test_a_failed_load_is_told_to_all_who_wait_and_tried_anew(tmp_path):
    folder = tiny_bert(tmp_path)
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:1000])
    errors = []

    def load():
        try:
            zr.load_encoder("bge-base-zh", path=folder, device="cpu")
        except zr.CheckpointError as error:
            errors.append(error)

    threads = [threading.Thread(target=load) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(errors) == 4
    (folder / "model.safetensors").write_bytes(weights)
    with zr.load_encoder("bge-base-zh", path=folder, device="cpu") as encoder:
        assert encoder.encode_documents(["好"]).shape == (1, 64)


def run_child(code, *arguments):
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
@pytest.mark.parametrize(("ending", "status"), [("pass", 0), ("os.kill(os.getpid(), signal.SIGINT)", 130)])
def test_the_interpreter_ends_cleanly_while_weights_load(ending, status):
    pytest.importorskip("torch")
    result = run_child(f"""
import os, signal, sys, threading, time, torch
from zh_retrieval import process
def load():
    weights = torch.rand(1500, 1500)
    while True:
        weights @ weights
thread = threading.Thread(target=load, daemon=True)
process.stopped_at_exit(thread)
thread.start()
time.sleep(0.5)
try:
    {ending}
    time.sleep(0.1)
except KeyboardInterrupt:
    sys.exit(130)
""")
    assert (result.returncode, result.stderr) == (status, "")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_child_forked_while_weights_load_loads_for_itself(tmp_path):
    result = run_child(
        """
import os, sys, threading, time, warnings
warnings.simplefilter("ignore")
import zh_retrieval as zr
options = {"path": sys.argv[1], "device": "cpu"}
with zr.load_encoder("bge-base-zh", **options) as encoder:
    encoder.encode_documents(["x"])
stop = False
def loads():
    while not stop:
        with zr.load_encoder("bge-base-zh", **options):
            pass
threading.Thread(target=loads, daemon=True).start()
for _ in range(12):
    time.sleep(0.02)
    child = os.fork()
    if child == 0:
        with zr.load_encoder("bge-base-zh", **options) as encoder:
            encoder.encode_documents(["x"])
        os._exit(0)
    for _ in range(300):
        if os.waitpid(child, os.WNOHANG)[0]:
            break
        time.sleep(0.1)
    else:
        os.kill(child, 9)
        print("a child hangs")
stop = True
print("fine")
""",
        tiny_bert(tmp_path),
    )
    assert result.stdout == "fine\n", result.stderr


def test_a_graph_that_outlives_every_module_is_no_error_at_exit(tmp_path):
    result = run_child(
        """
import os, sys
import zh_retrieval as zr
from zh_retrieval.engine.openvino import engine
encoder = zr.load_encoder("bge-base-zh", path=sys.argv[1], device="cpu")
encoder.encode_documents(["x"])
os.kept = engine, next(iter(engine._ALIVE))  # a module that lives on has all its names set to None
""",
        tiny_bert(tmp_path),
    )
    assert result.returncode == 0
    assert "OpenVinoEngine" not in result.stderr


def test_what_a_user_must_know_is_said_once_before_anything_is_downloaded(tmp_path, caplog, monkeypatch):
    from zh_retrieval import loading

    monkeypatch.setattr(loading, "_NOTICED", set())
    for _ in range(2):
        with pytest.raises(zr.DownloadError):
            zr.load_encoder("m3e-small", cache_dir=tmp_path, local_files_only=True, device="cpu")
    said = [record.getMessage() for record in caplog.records if record.name == "zh_retrieval.loading"]
    assert said == ["m3e-small: its makers allow research, and no commercial use."]
