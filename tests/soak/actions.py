"""What the soak's threads and tasks do, each action checking its results."""

from __future__ import annotations

import asyncio
import contextlib
import io
import os
import random
import shutil
import signal
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

import zh_retrieval as zr
from tests.soak.kinds import WrongResultError

if TYPE_CHECKING:
    from tests.soak.state import Soak

BAD_TEXTS = (None, 3, b"x", "\ud800")
FORK_PATIENCE = 120.0  # seconds that a forked child may take


def shared_handle(soak: Soak, choose: random.Random) -> None:
    kind, method, rows, inputs = soak.drawn(choose)
    with kind.open() as handle:
        for _ in range(choose.randint(1, 4)):
            kind.check(method, rows, getattr(handle, method)(inputs))


def dropped_handle(soak: Soak, choose: random.Random) -> None:
    """Leave the lease to the garbage collector."""
    kind, method, rows, inputs = soak.drawn(choose)
    kind.check(method, rows, getattr(kind.open(), method)(inputs))


def private_handle(soak: Soak, choose: random.Random) -> None:
    kind, method, rows, inputs = soak.drawn(choose)
    with kind.open(private=True) as handle:
        kind.check(method, rows, getattr(handle, method)(inputs))
        if choose.random() < 0.3:
            handle.warmup()


def close_under_work(soak: Soak, choose: random.Random) -> None:
    """Close a private model while it computes: the call gives the right result or a ClosedError."""
    kind, method, rows, inputs = soak.drawn(choose, most=100)
    handle = kind.open(private=True)
    closer = threading.Timer(choose.random() * 0.2, handle.close)
    closer.start()
    try:
        kind.check(method, rows, getattr(handle, method)(inputs))
    except zr.ClosedError:
        pass
    finally:
        closer.join()


def bad_input(soak: Soak, choose: random.Random) -> None:
    """A bad input fails alone, with its index, while other callers go on."""
    kind, method, _, inputs = soak.drawn(choose)
    bad = choose.choice(BAD_TEXTS)
    where = choose.randint(0, len(inputs))
    inputs.insert(where, bad if method != "score" else (inputs[0][0] if inputs else "茶", bad))
    with kind.open() as handle:
        try:
            getattr(handle, method)(inputs)
        except zr.InputError as error:
            if f"[{where}]" not in str(error):
                raise WrongResultError(f"the index {where} is not in {error}") from error
        else:
            raise WrongResultError(f"{bad!r} was accepted")
    with kind.open(overflow="error") as strict:
        long = "今天天气" * strict.max_length
        try:
            getattr(strict, method)([long if method != "score" else (long, long)])
        except zr.InputError:
            return
        raise WrongResultError("an overlong text was accepted")


def adapters(soak: Soak, choose: random.Random) -> None:
    kind = soak.kinds[0]
    first, second = soak.embedders
    rows = [choose.randrange(len(kind.inputs["encode_documents"])) for _ in range(choose.randint(1, 20))]
    texts = [kind.inputs["encode_documents"][row] for row in rows]
    kind.check("encode_documents", rows, first.embed_documents(texts))
    kind.check("encode_documents", rows, second.get_text_embedding_batch(texts))
    row = choose.randrange(len(kind.inputs["encode_queries"]))
    kind.check("encode_queries", [row], [first.embed_query(kind.inputs["encode_queries"][row])])
    kind.check("encode_queries", [row], [second.get_query_embedding(kind.inputs["encode_queries"][row])])


def reranking_adapters(soak: Soak, choose: random.Random) -> None:
    kind = soak.kinds[3]
    row = choose.randrange(len(kind.inputs["score"]))
    query, text = kind.inputs["score"][row]
    kept = soak.compressor.compress_documents([Document(text)], query)
    kind.check("score", [row], [kept[0].metadata["relevance_score"]])
    nodes = soak.postprocessor.postprocess_nodes([NodeWithScore(node=TextNode(text=text))], QueryBundle(query))
    kind.check("score", [row], [nodes[0].score])


def unload(soak: Soak, choose: random.Random) -> None:
    choose.choice([*soak.embedders, soak.compressor, soak.postprocessor]).unload()


def close_everything(soak: Soak, choose: random.Random) -> None:
    zr.close_all()


class FlakyStream(io.TextIOBase):
    """Standard error that is gone for the threads that say so."""

    def __init__(self, stream: Any) -> None:
        super().__init__()
        self.stream, self.gone = stream, threading.local()

    def write(self, text: str) -> int:
        if getattr(self.gone, "yes", False):
            raise BrokenPipeError("standard error is gone")
        return int(self.stream.write(text))

    def flush(self) -> None:
        self.stream.flush()

    @contextlib.contextmanager
    def closed_here(self) -> Iterator[None]:
        self.gone.yes = True
        try:
            yield
        finally:
            self.gone.yes = False


def bar_that_fails(soak: Soak, choose: random.Random) -> None:
    """A bar on a standard error that is gone does not stop the work."""
    kind, method, rows, inputs = soak.drawn(choose, most=40)
    assert isinstance(sys.stderr, FlakyStream)
    with kind.open() as handle, sys.stderr.closed_here():
        kind.check(method, rows, getattr(handle, method)(inputs, show_progress=True))


def forked_child(soak: Soak, choose: random.Random) -> None:
    """A child forked while everything works computes the same."""
    kind, method, rows, inputs = soak.drawn(choose)
    handle = kind.open()
    in_a_child(kind.label, lambda: kind.check(method, rows, getattr(handle, method)(inputs)))
    handle.close()


def replaced_weights(soak: Soak, choose: random.Random) -> None:
    """The weights of a folder are replaced: who has the old ones keeps them, also in forked children; a load is new."""
    before, after = soak.trainings
    (method, inputs), *_ = before.inputs.items()
    rows = list(range(len(inputs)))
    with tempfile.TemporaryDirectory() as place:
        folder = Path(shutil.copytree(before.options["path"], Path(place) / "m"))
        with before.open(path=folder) as old:
            if choose.random() < 0.5:
                before.check(method, rows, getattr(old, method)(inputs))
            weights = Path(after.options["path"]) / "model.safetensors"
            if choose.random() < 0.5:
                shutil.copyfile(weights, folder / "model.safetensors")  # written over
            else:
                shutil.copyfile(weights, folder / "new")
                (folder / "new").replace(folder / "model.safetensors")
            with after.open(path=folder) as new:
                after.check(method, rows, getattr(new, method)(inputs))
                before.check(method, rows, getattr(old, method)(inputs))
            if choose.random() < 0.2:
                in_a_child(before.label, lambda: before.check(method, rows, getattr(old, method)(inputs)))


def in_a_child(label: str, check: Callable[[], None]) -> None:
    child = os.fork()
    if child == 0:
        try:
            check()
            os._exit(0)
        except zr.ClosedError:
            os._exit(0)
        except BaseException:
            os._exit(1)
    end = time.monotonic() + FORK_PATIENCE
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.waitstatus_to_exitcode(status) != 0:
                raise WrongResultError(f"a forked child of {label} gave a wrong result")
            return
        time.sleep(0.05)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise WrongResultError(f"a forked child of {label} hangs")


async def task_of_a_handle(soak: Soak, choose: random.Random) -> None:
    kind, method, rows, inputs = soak.drawn(choose)
    handle = await asyncio.to_thread(kind.open)
    try:
        kind.check(method, rows, await getattr(handle, f"a{method}")(inputs))
    finally:
        handle.close()


async def task_with_a_deadline(soak: Soak, choose: random.Random) -> None:
    await asyncio.wait_for(task_of_a_handle(soak, choose), choose.random() * 0.2)


async def task_of_adapters(soak: Soak, choose: random.Random) -> None:
    kind = soak.kinds[0]
    row = choose.randrange(len(kind.inputs["encode_queries"]))
    text = kind.inputs["encode_queries"][row]
    found = await asyncio.gather(soak.embedders[0].aembed_query(text), soak.embedders[1].aget_query_embedding(text))
    kind.check("encode_queries", [row, row], found)
    pair = soak.kinds[3].inputs["score"][row]
    kept = await soak.compressor.acompress_documents([Document(pair[1])], pair[0])
    soak.kinds[3].check("score", [row], [kept[0].metadata["relevance_score"]])


async def task_whose_list_changes(soak: Soak, choose: random.Random) -> None:
    """What was given at the call is computed, whatever becomes of the caller's list."""
    kind, method, rows, inputs = soak.drawn(choose, most=200)
    handle = await asyncio.to_thread(kind.open)
    call = asyncio.create_task(getattr(handle, f"a{method}")(inputs))
    try:
        for _ in range(choose.randint(1, 5)):
            await asyncio.sleep(0)
        choose.choice([inputs.clear, inputs.reverse, lambda: inputs.extend(inputs)])()
        kind.check(method, rows, await call)
    finally:
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        handle.close()


async def task_at_a_full_queue(soak: Soak, choose: random.Random) -> None:
    """Calls that wait for room get their results; whoever asked not to wait is told so."""
    kind, method, rows, inputs = soak.drawn(choose)
    when_full = choose.choice(["wait", "refuse"])
    handle = await asyncio.to_thread(kind.open, max_queue_tokens=choose.choice([1, 100]), when_full=when_full)
    try:
        calls = [getattr(handle, f"a{method}")(inputs) for _ in range(choose.randint(1, 6))]
        for found in await asyncio.gather(*calls, return_exceptions=True):
            if isinstance(found, zr.OverloadedError) and when_full == "refuse":
                continue
            if isinstance(found, BaseException):
                raise found
            kind.check(method, rows, found)
    finally:
        handle.close()


SYNC: list[Callable[[Soak, random.Random], None]] = [
    shared_handle, dropped_handle, private_handle, close_under_work, bad_input, adapters, reranking_adapters, unload,
    close_everything, bar_that_fails, forked_child, replaced_weights,
]  # fmt: skip
SYNC_WEIGHTS = [30, 10, 4, 4, 10, 10, 10, 1, 0.5, 5, 0.3, 3]
NEVER_CLOSED = (private_handle, close_under_work)
ASYNC = [
    task_of_a_handle, task_with_a_deadline, task_of_adapters, task_whose_list_changes, task_at_a_full_queue,
]  # fmt: skip
