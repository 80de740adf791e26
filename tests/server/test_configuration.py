"""How an operator says what is served: names, a file, a prefix, a Unix socket, traces in the log."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.server.serving import QuietHost, serving, wait_until
from zh_retrieval.cli.main import main
from zh_retrieval.errors import ConfigError
from zh_retrieval.server.app import App
from zh_retrieval.server.configuration import read
from zh_retrieval.server.http import unix
from zh_retrieval.server.models.served import named
from zh_retrieval.server.operation.logs import JsonFormatter
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder

FILE = """
port = 0
log = "json"
max_wait = 12
cors_origin = ["https://a.b"]

[[models]]
name = "bge-base-zh"
path = "weights"
served_model_name = "text-embedding-3-small"
max_length = 256

[[models]]
name = "bge-reranker-large"
overflow = "window"
"""


def written(folder: Path, text: str) -> Path:
    file = folder / "serve.toml"
    file.write_text(text, "utf-8")
    return file


def test_a_model_answers_to_the_name_it_was_given() -> None:
    settings = Settings(handles={"fake": FakeEncoder()}, served_model_names={"fake": "text-embedding-3-small"})
    with serving(settings) as server:
        ids = [model["id"] for model in server.get("/v1/models").json()["data"]]
        assert ids == [f"text-embedding-3-small{side}" for side in ("", "-query", "-document")]
        answer = server.post("/v1/embeddings", {"model": "Text-Embedding-3-small-query", "input": "好"})
        assert answer.headers["x-side"] == "query"
        assert 'inputs_total{model="text-embedding-3-small"} 1.0' in server.get("/metrics").text
        refused = server.post("/v1/embeddings", {"model": "other", "input": "好"})
        assert "It serves: text-embedding-3-small." in refused.text


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ({"b": "x"}, "'b' gets a name and is not served"), ({"a": "x-query"}, "no ending of"),
        ({"a": "c"}, "Two models"), ({"a": "一 二"}, "expected letters"),
    ],
)  # fmt: skip
def test_names_that_are_not_clear_are_refused(names: dict[str, str], says: str) -> None:
    handles = {"a": FakeEncoder(), "c": FakeEncoder()}
    with pytest.raises(ConfigError, match=says):
        list(named(Settings(handles=handles, served_model_names=names)))


def test_a_file_says_flags_and_options_of_each_model(tmp_path: Path) -> None:
    found = read(written(tmp_path, FILE))
    assert found.flags == {"port": 0, "log": "json", "max_wait": 12, "cors_origin": ["https://a.b"]}
    assert found.models == ("bge-base-zh=weights", "bge-reranker-large")
    settings = Settings(found.models, {}, model_options=found.options, served_model_names=found.names)
    embedder, reranker = named(settings)
    assert (embedder.name, embedder.options["max_length"]) == ("text-embedding-3-small", 256)
    assert (reranker.name, reranker.options["overflow"]) == ("bge-reranker-large", "window")
    assert "overflow" not in embedder.options


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("prot = 1", "'prot', which is not known"), ("port = '1'", "port is '1', expected a whole number"),
        ("port = true", "expected a whole number"), ("[[models]]\npath = 'x'", "expected a text"),
        ("[[models]]\nname = 'a'\nthread = 1", "'thread', which is not known"),
        ("[[models]]\nname = 'a'\nmax_length = 'x'", "max_length"), ("models = 1", "no list of tables"),
        ("a = ", "is no TOML"), ("[[models]]\nname = 'a=b'", "Write it as path"),
    ],
)  # fmt: skip
def test_a_file_that_is_wrong_is_refused(tmp_path: Path, text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        read(written(tmp_path, text))


def test_the_command_takes_the_file_and_its_flags_win(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    hosts: list[tuple[Settings, tuple[Any, ...]]] = []

    class Told:
        status = 0

        def __init__(self, app: App, *told: Any) -> None:
            hosts.append((app.settings, told))

        def run(self) -> None:
            """Serve nothing."""

    monkeypatch.setattr("zh_retrieval.server.host.Host", Told)
    monkeypatch.setattr("zh_retrieval.server.operation.logs.log_requests", lambda _: None)
    file = str(written(tmp_path, FILE))
    names = ["--served-model-name", "bge-reranker-large=rank"]
    assert main(["serve", "--config", file, "--port", "9", "--root-path", "/rag", *names]) == 0
    settings, (host, port, drain, _, connections, socket) = hosts[0]
    assert (host, port, drain, connections, socket) == ("127.0.0.1", 9, 30.0, 1000, None)
    assert (settings.max_wait, settings.root_path, settings.cors_origins) == (12, "/rag", ("https://a.b",))
    assert settings.served_model_names == {"bge-base-zh": "text-embedding-3-small", "bge-reranker-large": "rank"}
    assert main(["serve", "--served-model-name", "x"]) == 2
    assert "NAME=ALIAS" in capsys.readouterr().err


def test_a_prefix_is_understood_whether_the_proxy_takes_it_away_or_not() -> None:
    with serving(Settings(handles={"fake": FakeEncoder()}, root_path="/rag")) as server:
        for path in ("/rag/v1/embeddings", "/v1/embeddings"):
            assert server.post(path, {"input": "好"}).status_code == 200
        assert server.get("/rag/openapi.json").json()["servers"] == [{"url": "/rag"}]
        assert "http://HOST:PORT/rag/v1/embeddings" in server.get("/rag/docs").text
        assert "page.js" in server.get("/rag/", headers={"accept": "text/html"}).text
        assert server.get("/ragged").status_code == 404
    with pytest.raises(ConfigError, match="root_path"):
        Settings(handles={"fake": FakeEncoder()}, root_path="rag/")


def test_a_unix_socket(tmp_path: Path) -> None:
    file = str(tmp_path / "zh.sock")
    listening = unix.listening(file)
    with pytest.raises(ConfigError, match="Somebody listens"):
        unix.listening(file)
    listening.close()  # as a process that was killed leaves it
    ready = threading.Event()
    said: list[str] = []

    def announce(url: str) -> None:
        said.append(url)
        ready.set()

    host = QuietHost(App(Settings(handles={"fake": FakeEncoder()})), "", 0, 5, announce, unix_socket=file)
    again = unix.listening(file)
    thread = threading.Thread(target=lambda: asyncio.run(host.serve([again])), daemon=True)
    thread.start()
    assert ready.wait(30)
    with httpx.Client(transport=httpx.HTTPTransport(uds=file)) as client:
        assert client.post("http://x/v1/embeddings", json={"input": "好"}).status_code == 200
    host.should_exit = True
    thread.join(30)
    again.close()
    unix.forget(file)
    assert said == [f"unix:{file}"]
    assert not Path(file).exists()
    (tmp_path / "text").write_text("mine")
    with pytest.raises(ConfigError, match="no socket"):
        unix.listening(str(tmp_path / "text"))


def test_the_trace_of_a_request_is_in_its_lines(caplog: pytest.LogCaptureFixture) -> None:
    trace, span = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
    with serving(Settings(handles={"fake": FakeEncoder()})) as server, caplog.at_level(logging.INFO, "zh_retrieval"):
        server.post("/v1/embeddings", {"input": "好"}, headers={"traceparent": f"00-{trace}-{span}-01"})
        server.post("/v1/embeddings", {"input": "好"}, headers={"traceparent": f"00-{'0' * 32}-{span}-01"})
        wait_until(
            lambda: sum("POST /v1" in record.getMessage() for record in caplog.records) == 2
        )  # after the answers
    lines = [json.loads(JsonFormatter().format(record)) for record in caplog.records if hasattr(record, "facts")]
    first, second = (line for line in lines if line.get("route") == "/v1/embeddings")
    assert (first["trace_id"], first["parent_span_id"]) == (trace, span)
    assert {"time", "model", "inputs", "tokens", "cut"} <= first.keys()
    assert "trace_id" not in second
