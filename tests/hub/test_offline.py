"""A cache without network: used at once when it is whole, named file by file when it is not."""

import json
import socket
import threading
import time

import pytest
from transformers import BertConfig, BertModel

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from tests.tiny_models import seeded, wordpiece_files
from zh_retrieval.cli.main import main
from zh_retrieval.hub import download
from zh_retrieval.hub.snapshot import verify

SPEC = zr.get_spec("bge-large-zh")
FIRST = SPEC.sources[0].id
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """Return a model of one layer as wide as the published one, since a snapshot of another width is refused."""
    folder = tmp_path_factory.mktemp("published")
    wordpiece_files(folder)
    config = BertConfig(
        vocab_size=len((folder / "vocab.txt").read_text(encoding="utf-8").splitlines()), hidden_size=SPEC.dimension,
        num_hidden_layers=1, num_attention_heads=16, intermediate_size=64, max_position_embeddings=512,
    )  # fmt: skip
    seeded(BertModel(config)).save_pretrained(folder)
    return {file.name: file.read_bytes() for file in folder.iterdir()}


@pytest.fixture
def cached(files, tmp_path, monkeypatch):
    monkeypatch.setenv("MODELSCOPE_DOWNLOAD_INTRA_CLOUD", "false")
    with serve(Stub({FIRST: files})) as stub:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", stub.url)
        return download.fetch(SPEC, cache_dir=tmp_path / "cache")


@pytest.fixture
def silent_hub(monkeypatch):
    """Return the connections made to a hub that takes them and never answers."""
    calls: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def accept() -> None:
            while True:
                try:
                    calls.append(server.accept()[0])
                except OSError:
                    return

        threading.Thread(target=accept, daemon=True).start()
        url = f"http://127.0.0.1:{server.getsockname()[1]}"
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", url)
        monkeypatch.setenv("HF_ENDPOINT", url)
        yield calls
        for call in calls:
            call.close()
        server.shutdown(socket.SHUT_RDWR)


def seconds_to_load(**options):
    start = time.perf_counter()
    with zr.load_encoder(SPEC.name, device="cpu", dtype="float32", private=True, **options) as encoder:
        taken = time.perf_counter() - start
        assert encoder.encode_queries(["天气"]).shape == (1, SPEC.dimension)
    return taken


@pytest.mark.timing
@pytest.mark.parametrize("offline", ["", "1"])
def test_a_whole_cache_loads_as_fast_as_a_folder_while_the_hub_is_silent(
    cached, tmp_path, silent_hub, monkeypatch, offline
):
    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", offline)
    seconds_to_load(path=cached)  # imports and first-time work
    bare = min(seconds_to_load(path=cached) for _ in range(3))
    from_cache = min(seconds_to_load(cache_dir=tmp_path / "cache") for _ in range(3))
    assert from_cache < bare + 0.5
    assert silent_hub == []


@pytest.mark.timing
def test_a_whole_cache_is_found_without_reading_its_weights(cached, tmp_path, silent_hub):
    with (cached / WEIGHTS).open("r+b") as stream:
        stream.truncate(0)
        stream.truncate(40_000_000_000)  # sparse: hashing or copying it would take minutes
    manifest = cached / ".zh_retrieval.json"
    entries = json.loads(manifest.read_text(encoding="utf-8"))
    for entry in entries["files"]:
        entry["size"] = (cached / entry["path"]).stat().st_size
    manifest.write_text(json.dumps(entries), encoding="utf-8")
    start = time.perf_counter()
    assert download.fetch(SPEC, cache_dir=tmp_path / "cache") == cached
    assert time.perf_counter() - start < 2
    assert silent_hub == []


def test_doctor_verify_finds_one_flipped_bit(cached, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ZH_RETRIEVAL_OFFLINE", "1")
    arguments = ["doctor", "--json", "--cache-dir", str(tmp_path / "cache")]
    assert main([*arguments, "--verify"]) == 0
    with (cached / WEIGHTS).open("r+b") as stream:
        stream.seek(-5, 2)
        byte = stream.read(1)[0]
        stream.seek(-5, 2)
        stream.write(bytes([byte ^ 1]))
    assert main(arguments) == 0  # hashes only when asked
    capsys.readouterr()
    assert main([*arguments, "--verify"]) == 1
    report = json.loads(capsys.readouterr().out)
    problems = {model["name"]: model["problems"] for model in report["models"] if model["problems"]}
    assert problems == {SPEC.name: [f"{WEIGHTS}: sha256 differs from the hub's"]}
    assert verify(cached) == problems[SPEC.name]


@pytest.mark.parametrize("lost", [["vocab.txt"], [WEIGHTS], ["config.json", WEIGHTS, "tokenizer.json"]])
def test_a_partial_cache_says_exactly_which_files_it_lacks(cached, tmp_path, silent_hub, lost):
    for name in lost:
        (cached / name).unlink()
    with pytest.raises(zr.DownloadError) as caught:
        zr.load_encoder(SPEC.name, cache_dir=tmp_path / "cache", local_files_only=True)
    named = str(caught.value).partition(" lacks ")[2].partition(". Run")[0].split(", ")
    assert sorted(named) == sorted(lost)
    assert f"zh-retrieval download {SPEC.name}" in str(caught.value)
    assert silent_hub == []


def test_a_truncated_file_counts_as_missing(cached, tmp_path):
    with (cached / WEIGHTS).open("r+b") as stream:
        stream.truncate(1000)
    with pytest.raises(zr.DownloadError, match=rf"lacks {WEIGHTS}\. Run"):
        download.fetch(SPEC, cache_dir=tmp_path / "cache", local_files_only=True)
