"""What a hub, a disk or a killed process can do to a download: the right files in the end, or a typed error.

Everything goes through the real ModelScope client, to a stub on loopback.
"""

import builtins
import errno
import io
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from modelscope_hub import _download, _legacy_api

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import tiny_bert
from zh_retrieval.hub import download
from zh_retrieval.hub.cache import locate
from zh_retrieval.hub.retry import RetryPolicy
from zh_retrieval.hub.snapshot import MANIFEST, PLAN, verify

SPEC = zr.get_spec("bge-large-zh")
FIRST, SECOND = (source.id for source in SPEC.sources[:2])
WEIGHTS = "model.safetensors"
WANTED = ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json", "vocab.txt"]
FOREVER = 999
NO_PAUSE = RetryPolicy(sleep=lambda seconds: None)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tiny_bert(tmp_path_factory.mktemp("published"))
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def stub(files, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    with serve(Stub({FIRST: dict(files)})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        yield running


@pytest.fixture
def impatient(monkeypatch):
    """Let the client wait a fifth of a second for an answer, instead of 15 (listing) or 60 (file), and twice only."""
    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_TIMEOUT_SECONDS", 0.2)
    monkeypatch.setattr(_legacy_api, "DOWNLOAD_TIMEOUT", 0.2)
    monkeypatch.setattr(_legacy_api, "REPO_TREE_PAGE_MAX_ATTEMPTS", 2)
    monkeypatch.setattr(_download, "DOWNLOAD_RETRY_TIMES", 1)


def fetch(tmp_path, policy=NO_PAUSE, **options):
    return download.fetch(SPEC, cache_dir=tmp_path / "cache", policy=policy, **options)


def assert_whole(folder, files):
    assert verify(folder) == []
    assert sorted(path.name for path in folder.rglob("*")) == sorted([MANIFEST, *WANTED])
    for name in WANTED:
        assert (folder / name).is_file()
        assert not (folder / name).is_symlink()
        assert (folder / name).read_bytes() == files[name], name


def assert_not_taken_for_whole(tmp_path):
    assert locate(SPEC, cache_dir=tmp_path / "cache").status != "present"
    with pytest.raises(zr.DownloadError, match="not complete on this machine"):
        fetch(tmp_path, local_files_only=True)


# --- what the hub does ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Fault:
    """What a hub does, and how it ends: with the whole snapshot, or with an error that matches, naming the file."""

    name: str
    order: Callable[[Stub], object]
    error: str | None = None
    file: str = ""


def size(stub):
    return len(stub.repositories[FIRST][WEIGHTS])


def at(part):
    return lambda stub: stub.cut.update({WEIGHTS: [min(int(size(stub) * part), size(stub) - 1)]})


def listed(**fields):
    return lambda stub: stub.listing.update({WEIGHTS: fields})


def answered(body):
    return lambda stub: setattr(stub, "answer", body)


def failed(path, *statuses):
    return lambda stub: stub.fail.update({path: list(statuses)})


def also_listed(path, kind="blob"):
    return lambda stub: stub.extra.append({"Name": "x", "Path": path, "Type": kind, "Size": 1, "Sha256": ""})


def only(*paths):
    return lambda stub: stub.repositories.update({FIRST: {path: stub.repositories[FIRST][path] for path in paths}})


def both(*orders):
    return lambda stub: [order(stub) for order in orders]


def cut_in_turn(stub):
    stub.cut[WEIGHTS] = [0, *[size(stub) // 5] * 4]


def everything_cut(stub):
    stub.cut = {path: [len(content) // 2] for path, content in stub.repositories[FIRST].items()}


def no_ranges(stub):
    stub.ranges = False


def typed_as_links(stub):
    stub.listing = {path: {"Type": "symlink"} for path in WANTED}


FAULTS = [
    *(Fault(f"cut at {part} of the weights", at(part)) for part in (0, 0.25, 0.5, 0.75, 1)),
    *(Fault(f"cut at {part}, no Range", both(at(part), no_ranges)) for part in (0, 0.25, 0.5, 0.75, 1)),
    Fault("cut five times in one download", cut_in_turn),
    Fault("every file cut in the middle", everything_cut),
    Fault("cut, and no Content-Length", both(at(0.5), lambda stub: stub.unsized.add(WEIGHTS))),
    Fault("cut, then 416 for the rest", both(at(0.5), failed(WEIGHTS, 0, 416))),
    Fault("cut for ever", lambda stub: stub.cut.update({WEIGHTS: [0] * FOREVER}), "IncompleteRead", WEIGHTS),
    Fault("Content-Length too short, once", lambda stub: stub.lengths.update({WEIGHTS: [-100]})),
    Fault("Content-Length too long, once", lambda stub: stub.lengths.update({WEIGHTS: [100]})),
    Fault(
        "Content-Length too short for ever", lambda stub: stub.lengths.update({WEIGHTS: [-100] * FOREVER}),
        "FileSizeMismatchError", WEIGHTS,
    ),
    Fault(
        "Content-Length too long for ever", lambda stub: stub.lengths.update({WEIGHTS: [100] * FOREVER}),
        "FileSizeMismatchError", WEIGHTS,
    ),
    Fault("wrong bytes", lambda stub: stub.corrupt.add(WEIGHTS), "FileIntegrityError.*does not send what", WEIGHTS),
    Fault("wrong sha256 in the listing", listed(Sha256="0" * 64), "FileIntegrityError", WEIGHTS),
    Fault("junk sha256 in the listing", listed(Sha256="junk"), "FileIntegrityError", WEIGHTS),
    Fault("wrong size in the listing", listed(Size=7), "FileSizeMismatchError", WEIGHTS),
    Fault("no sha256 in the listing", listed(Sha256=None)),
    Fault("no size in the listing", listed(Size=None)),
    Fault("neither in the listing, and cut", both(listed(Size=None, Sha256=None), at(0.5))),
    Fault("404 at the first source", lambda stub: stub.repositories.update({SECOND: stub.repositories.pop(FIRST)})),
    Fault("404 at every source", lambda stub: stub.repositories.clear(), "huggingface"),
    Fault("404 for a listed file", failed(WEIGHTS, *[404] * FOREVER), "NotExistError", WEIGHTS),
    *(Fault(f"{status} for the listing", failed("", *[status] * FOREVER), "token") for status in (401, 403)),
    *(Fault(f"{status} for a file", failed(WEIGHTS, *[status] * FOREVER), "token", WEIGHTS) for status in (401, 403)),
    *(
        Fault(f"{status} once, everywhere", both(failed("", status), failed(WEIGHTS, status)))
        for status in (429, 500, 502, 503, 504)
    ),
    Fault("500 for the listing, for ever", failed("", *[500] * FOREVER), "ServerError"),
    Fault("500 for a file, for ever", failed(WEIGHTS, *[500] * FOREVER), "ServerError", WEIGHTS),
    Fault("429 for ever", failed("", *[429] * FOREVER), "RateLimitError"),
    Fault("an empty listing", answered(b'{"Code": 200, "Data": {"Files": []}}'), "lists 0 files"),
    Fault("a listing of null", answered(b'{"Code": 200, "Data": null}'), "lists 0 files"),
    Fault("a refusal with status 200", answered(b'{"Code": 1, "Success": false}'), "lists 0 files"),
    Fault("a listing that is not JSON", answered(b"<html>Sign in"), "JSONDecodeError"),
    Fault("a listing that is a number", answered(b"7"), "could not be fetched"),
    Fault("entries that are no objects", answered(b'{"Data": {"Files": ["config.json"]}}'), "could not be fetched"),
    Fault("a size that is no number", listed(Size="many"), "could not be fetched"),
    Fault("a listing without weights", lambda stub: stub.repositories[FIRST].pop(WEIGHTS), "lists 4 files"),
    Fault("a listing without config", lambda stub: stub.repositories[FIRST].pop("config.json"), "lists 4 files"),
    Fault("a listing without vocabulary", only("config.json", WEIGHTS), "lists 2 files"),
    *(
        Fault(f"a path outside: {path!r}", also_listed(path), "outside the snapshot", path)
        for path in ("../evil", "/etc/evil", "a/../../evil", "..\\evil", "\\\\host\\evil", "C:evil", "c:/evil", "a\0b")
    ),
    Fault("links outside, listed as links", also_listed("../config.json", "symlink"), "outside the snapshot"),
    Fault("files listed as links", typed_as_links),
]  # fmt: skip
STALLS = [
    Fault("silent at the first byte of a file", lambda stub: stub.stall.update({WEIGHTS: [0]})),
    Fault("silent in the middle of a file", lambda stub: stub.stall.update({WEIGHTS: [size(stub) // 2]})),
    Fault("silent in every file, once", lambda stub: stub.stall.update({path: [1] for path in WANTED})),
    Fault("silent listing, once", lambda stub: stub.stall.update({"": [0]})),
    Fault("silent files, for ever", lambda stub: stub.stall.update({WEIGHTS: [9] * FOREVER}), "Time|Network", WEIGHTS),
    Fault("silent listing, for ever", lambda stub: stub.stall.update({"": [0] * FOREVER}), "Time"),
]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_fault_of_the_hub_ends_in_the_whole_snapshot_or_in_a_typed_error(fault, stub, tmp_path, files, pauses):
    fault.order(stub)
    if fault.error is None:
        assert_whole(fetch(tmp_path, pauses.policy), files)
        return
    with pytest.raises(zr.DownloadError, match=fault.error) as caught:
        fetch(tmp_path, pauses.policy)
    message = str(caught.value)
    assert SPEC.name in message
    assert FIRST in message
    assert fault.file in message or repr(fault.file) in message
    assert re.search(r"\. [A-Z][^.]+\.$", message), "no remedy"
    assert message.count("\n") == 0
    assert_not_taken_for_whole(tmp_path)
    assert [path for path in tmp_path.rglob("*") if path.is_symlink()] == []
    assert {path.name for path in tmp_path.iterdir()} <= {"cache"}
    stub.heal()
    stub.repositories[FIRST] = dict(files)
    assert_whole(fetch(tmp_path), files)


@pytest.mark.parametrize("fault", STALLS, ids=lambda fault: fault.name)
def test_a_silent_hub_is_given_up_after_the_clients_timeout(fault, stub, tmp_path, files, pauses, impatient):
    test_a_fault_of_the_hub_ends_in_the_whole_snapshot_or_in_a_typed_error(fault, stub, tmp_path, files, pauses)


@pytest.mark.parametrize("path", ["", WEIGHTS], ids=["listing", "file"])
def test_the_pause_that_a_hub_asks_for_is_made(stub, tmp_path, files, pauses, path):
    stub.fail, stub.retry_after = {path: [429]}, "7"
    assert_whole(fetch(tmp_path, pauses.policy), files)
    assert max(pauses.made) == 7


@pytest.mark.parametrize("value", ["", "soon", "-3", "1e9", "Wed, 21 Oct 2015 07:28:00 GMT"])
def test_a_strange_retry_after_does_not_stop_a_download(stub, tmp_path, files, pauses, value):
    stub.fail, stub.retry_after = {"": [429], WEIGHTS: [429]}, value
    assert_whole(fetch(tmp_path, pauses.policy), files)
    assert max(pauses.made, default=0) <= 60


def test_wrong_bytes_are_not_fetched_again_and_again(stub, tmp_path, pauses):
    stub.corrupt.add(WEIGHTS)
    with pytest.raises(zr.DownloadError):
        fetch(tmp_path)
    assert len([path for path, _ in stub.requests if path == WEIGHTS]) == 3  # the client's own tries


def test_a_cut_download_asks_for_the_rest_only(stub, tmp_path, files, pauses):
    half = size(stub) // 2
    stub.cut[WEIGHTS] = [half]
    assert_whole(fetch(tmp_path), files)
    assert [asked for path, asked in stub.requests if path == WEIGHTS] == [None, f"bytes={half}-"]


# --- what the disk does --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", [0, 0.5], ids=["at once", "in the middle of the weights"])
def test_a_full_disk_is_named_and_the_download_goes_on_when_there_is_room(
    stub, tmp_path, files, monkeypatch, pauses, part
):
    room = int(size(stub) * part)

    class Full(io.FileIO):
        def write(self, data):
            if self.tell() + len(data) > room:
                super().write(data[: max(0, room - self.tell())])
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(data)

    def small_disk(path, mode="r", *rest, **options):
        writing = Path(path).name.startswith(WEIGHTS) and mode in ("wb", "ab")
        return Full(path, mode) if writing else builtins.open(path, mode, *rest, **options)

    with monkeypatch.context() as patch:
        patch.setattr(_download, "open", small_disk, raising=False)
        with pytest.raises(zr.DownloadError, match="No space left on device") as caught:
            fetch(tmp_path)
    for part_of_message in (SPEC.name, FIRST, WEIGHTS, "Free space"):
        assert part_of_message in str(caught.value)
    assert_not_taken_for_whole(tmp_path)
    assert_whole(fetch(tmp_path), files)


def test_a_file_larger_than_allowed_is_named(stub, tmp_path, files):
    limit = size(stub) // 2
    process = child(
        tmp_path,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit)),
        env={"MODELSCOPE_DOWNLOAD_MAX_RETRIES": "0"},
    )
    error = process.communicate(timeout=60)[1]
    assert process.returncode == 1
    assert re.search(rf"DownloadError: {SPEC.name} .*File too large: '{WEIGHTS}'.*Free space", error.splitlines()[-1])
    assert_not_taken_for_whole(tmp_path)
    assert_whole(fetch(tmp_path), files)


def test_a_cache_that_can_never_be_written_is_named(stub):
    with pytest.raises(zr.DownloadError, match=rf"{SPEC.name}.*cannot be written to /dev/null/.*Free space"):
        download.fetch(SPEC, cache_dir="/dev/null/cache")


@pytest.mark.parametrize("name", ["models", "snapshots", "master", "master.lock", "config.json", WEIGHTS])
def test_something_else_in_the_place_of_a_file_or_folder_is_named(stub, tmp_path, files, pauses, name):
    folder = tmp_path / "cache" / "models" / FIRST.replace("/", "--") / "snapshots" / "master"
    places = {"models": folder.parents[2], "snapshots": folder.parent, "master": folder}
    place = places.get(name) or (folder.parent if name.endswith(".lock") else folder) / name
    place.parent.mkdir(parents=True)
    place.write_text("a file") if name in places else place.mkdir()
    with pytest.raises(zr.DownloadError, match=rf"{SPEC.name}.*{FIRST}.*(Free space|Try again)"):
        fetch(tmp_path)
    assert_not_taken_for_whole(tmp_path)
    place.unlink() if name in places else place.rmdir()
    assert_whole(fetch(tmp_path), files)


def test_nothing_is_written_outside_the_given_cache(stub, tmp_path, files, monkeypatch):
    monkeypatch.setenv("HOME", "/dev/null")  # a home that can never be written, as in many containers
    monkeypatch.setenv("MODELSCOPE_CACHE", "/dev/null/modelscope")
    process = child(tmp_path)
    out, error = process.communicate(timeout=60)
    assert process.returncode == 0, error
    assert_whole(Path(out.strip()), files)


def test_a_cache_on_another_filesystem_works(stub, tmp_path, files):
    shared = Path("/dev/shm")
    if not shared.is_dir() or shared.stat().st_dev == tmp_path.stat().st_dev or not os.access(shared, os.W_OK):
        pytest.skip("no second filesystem")
    import tempfile

    with tempfile.TemporaryDirectory(dir=shared) as other:
        (tmp_path / "cache").symlink_to(other)
        stub.cut[WEIGHTS] = [1000]
        assert_whole(fetch(tmp_path), files)


# --- what other processes do ---------------------------------------------------------------------------------------

CHILD = """
import sys
import zh_retrieval as zr
from zh_retrieval.hub import download
print(download.fetch(zr.get_spec(sys.argv[1]), cache_dir=sys.argv[2]))
"""


def child(tmp_path, env=None, **options):
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, SPEC.name, str(tmp_path / "cache")],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | (env or {}), **options,
    )  # fmt: skip


@pytest.mark.parametrize("ranges", [True, False], ids=["Range honoured", "Range refused"])
def test_a_download_killed_at_every_quarter_goes_on(stub, tmp_path, files, ranges):
    stub.ranges = ranges
    quarter = size(stub) // 4
    stops = [quarter] * 3 if ranges else [quarter, 2 * quarter, 3 * quarter]
    partial = locate_folder(tmp_path) / f"{WEIGHTS}.incomplete"
    for number, stop in enumerate(stops, 1):
        stub.stall[WEIGHTS] = [stop]
        process = child(tmp_path)
        wait_until(lambda done=number * quarter: partial.is_file() and partial.stat().st_size > done - 9000)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert_not_taken_for_whole(tmp_path)
    assert_whole(fetch(tmp_path), files)
    asked = [int(first.removeprefix("bytes=")[:-1]) for path, first in stub.requests if path == WEIGHTS and first]
    assert len(asked) == 3
    assert [round(first / quarter) for first in asked] == [1, 2, 3]


def locate_folder(tmp_path):
    return tmp_path / "cache" / "models" / FIRST.replace("/", "--") / "snapshots" / "master"


def wait_until(happened):
    deadline = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < deadline
        threading.Event().wait(0.02)


def test_files_without_their_manifest_are_checked_and_not_fetched_again(stub, tmp_path, files):
    folder = fetch(tmp_path)
    (folder / MANIFEST).rename(folder / PLAN)  # as a kill after the last byte leaves it
    assert_not_taken_for_whole(tmp_path)
    stub.requests.clear()
    assert_whole(fetch(tmp_path), files)
    assert {path for path, _ in stub.requests} == {""}


@pytest.mark.parametrize("count", [2, 5])
def test_processes_at_once_share_one_download(stub, tmp_path, files, count):
    stub.cut[WEIGHTS] = [size(stub) // 2]
    processes = [child(tmp_path) for _ in range(count)]
    folders = {process.communicate(timeout=120)[0].strip() for process in processes}
    assert [process.returncode for process in processes] == [0] * count
    assert len(folders) == 1
    assert_whole(Path(folders.pop()), files)
    assert len([path for path, _ in stub.requests if path == WEIGHTS]) == 2  # cut once


def test_a_waiting_process_takes_over_when_the_first_is_killed(stub, tmp_path, files):
    stub.stall[WEIGHTS] = [size(stub) // 2]
    first = child(tmp_path)
    wait_until(lambda: any(path == WEIGHTS for path, _ in stub.requests))
    second = child(tmp_path)
    first.send_signal(signal.SIGKILL)
    first.communicate()
    assert_whole(Path(second.communicate(timeout=60)[0].strip()), files)
