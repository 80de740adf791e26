"""What an operator does with these files: two servers behind nginx, restarted under load; alerts; the log."""

import json
import re
import shutil
import signal
import socket
import subprocess
import threading
from contextlib import contextmanager

import httpx
import numpy as np
import pytest

from tests.deploy.test_nginx import nginx
from tests.server.programs import program
from tests.server.serving import wait_until
from tests.server.test_monitoring import ALERTS, DEPLOY
from tests.tiny_models import tiny_xlmr_reranker

LONG = "茶" * 2000
KEY = {"authorization": "Bearer sesame"}


def free_port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


@contextmanager
def serve(port, reranker):
    """Run `zh-retrieval serve` with two models, ready to answer."""
    command = (
        "zh_retrieval.cli.main",
        "serve",
        "--port",
        str(port),
        "--log",
        "json",
        "--drain",
        "10",
        "--threads",
        "1",
    )
    models = ("--model", "e5-small-zh", "--model", f"bge-reranker-large={reranker}", "--dtype", "float32")
    with program(*command, *models, ZH_RETRIEVAL_API_KEY="sesame") as server:
        wait_until(lambda: is_ready(port), 120)
        yield server


def is_ready(port):
    try:
        return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
    except httpx.TransportError:
        return False


class Load:
    """Three clients that ask one after the other through nginx, until told to stop: no answer may be lost or wrong."""

    def __init__(self, url):
        self.url = url
        self.answers, self.faults = 0, []
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask) for _ in range(3)]

    def _ask(self):
        with httpx.Client(base_url=self.url, headers=KEY, timeout=60) as client:
            first = {}
            while not self._ended.is_set():
                for path, body in (
                    ("/v1/embeddings", {"model": "e5-small-zh-query", "input": ["西湖在哪里？", LONG[:300]]}),
                    ("/v1/rerank", {"model": "bge-reranker-large", "query": "茶", "documents": ["绿茶", "红茶"]}),
                ):
                    try:
                        answer = client.post(path, json=body)
                        answer.raise_for_status()
                        found = numbers(answer.json())
                        np.testing.assert_allclose(found, first.setdefault(path, found), atol=1e-6)
                        self.answers += 1
                    except Exception as error:
                        self.faults.append(error)

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._ended.set()
        for thread in self._threads:
            thread.join()


def numbers(answer):
    if "results" in answer:
        return [entry["relevance_score"] for entry in answer["results"]]
    return [entry["embedding"] for entry in answer["data"]]


def wait_for_more(load, count):
    enough = load.answers + count
    wait_until(lambda: load.answers >= enough or load.faults, 60)


@pytest.mark.slow
def test_two_servers_restart_under_load_and_nothing_is_lost(tmp_path):
    ports, reranker = (free_port(), free_port()), tiny_xlmr_reranker(tmp_path)
    with (
        serve(ports[0], reranker) as old,
        serve(ports[1], reranker) as other,
        nginx(tmp_path, ports) as url,
        Load(f"{url}/retrieval") as load,
    ):
        wait_for_more(load, 20)
        old.process.send_signal(signal.SIGTERM)
        assert old.ended(10) == 0
        wait_for_more(load, 20)  # of one alone
        with serve(ports[0], reranker) as new:
            other.process.send_signal(signal.SIGTERM)
            assert other.ended(10) == 0
            wait_for_more(load, 20)
            assert (load.faults, new.process.poll()) == ([], None)
            load.__exit__()


@pytest.mark.slow
def test_the_log_says_which_request_was_cut(tmp_path):
    ports, reranker = (free_port(), free_port()), tiny_xlmr_reranker(tmp_path)
    with serve(ports[0], reranker) as server, nginx(tmp_path, (ports[0], ports[0])) as url:
        asked = {}
        for name, texts in (("short", ["茶"]), ("long", ["茶", LONG])):
            body = {"model": "e5-small-zh-document", "input": texts}
            answer = httpx.post(f"{url}/retrieval/v1/embeddings", json=body, headers=KEY)
            assert answer.headers.get("x-truncated", "0") == str(int(name == "long"))
            asked[name] = answer.headers["x-request-id"]
        pattern = re.search(r"grep '(.*)'", (DEPLOY / "README.md").read_text(encoding="utf-8"))[1]
        wait_until(lambda: asked["long"] in server.said)
        lines = [json.loads(line) for line in server.lines if re.search(pattern, line)]
    assert [(line["request_id"], line["model"], line["cut"]) for line in lines] == [(asked["long"], "e5-small-zh", 1)]


@pytest.mark.slow
def test_prometheus_reads_both_servers_and_says_when_one_is_gone(tmp_path):
    where = shutil.which("prometheus")
    if where is None:
        pytest.skip("no prometheus installed")
    ports, own, reranker = (free_port(), free_port()), free_port(), tiny_xlmr_reranker(tmp_path)
    (tmp_path / "key").write_text("sesame")
    rules = re.sub(r"for: \d+[mh]", "for: 1s", ALERTS.read_text(encoding="utf-8"))
    (tmp_path / "alerts.yml").write_text(rules.replace("rules:\n", "interval: 1s\n    rules:\n", 1))
    said = (DEPLOY / "prometheus.yml").read_text(encoding="utf-8")
    for old, here in (
        ("127.0.0.1:8081", f"127.0.0.1:{ports[0]}"),
        ("127.0.0.1:8082", f"127.0.0.1:{ports[1]}"),
        ("/etc/prometheus/zh-retrieval.key", str(tmp_path / "key")),
        ("/etc/prometheus/prometheus-alerts.yml", str(tmp_path / "alerts.yml")),
    ):
        assert said.count(old) == 1
        said = said.replace(old, here)
    (tmp_path / "prometheus.yml").write_text("global: {scrape_interval: 1s}\n" + said)
    command = [where, f"--config.file={tmp_path}/prometheus.yml", f"--storage.tsdb.path={tmp_path}/data",
               f"--web.listen-address=127.0.0.1:{own}"]  # fmt: skip
    with serve(ports[0], reranker), serve(ports[1], reranker) as second:
        with (tmp_path / "log").open("wb") as log:
            prometheus = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            wait_until(lambda: asked_of(own, "zh_retrieval_ready") == [1.0, 1.0], 60)
            assert firing(own) == set()
            second.process.kill()
            wait_until(lambda: firing(own) == {"ZhRetrievalGone"}, 60)
        finally:
            prometheus.terminate()
            prometheus.wait(30)


def asked_of(port, query):
    try:
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": query})
        return [float(entry["value"][1]) for entry in answer.json()["data"]["result"]]
    except (httpx.TransportError, ValueError, KeyError):
        return []


def firing(port):
    alerts = httpx.get(f"http://127.0.0.1:{port}/api/v1/alerts").json()["data"]["alerts"]
    return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}
