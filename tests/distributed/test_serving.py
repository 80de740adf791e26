"""The server over Ray Serve: every dialect through a real proxy and replica, and a replica that is killed."""

import os
import signal
import socket
import threading
import time

import httpx
import numpy as np
import psutil
import pytest
import yaml

import zh_retrieval as zr
from tests.server.test_dialects import *  # noqa: F403  (each runs again here, through Ray Serve)
from tests.server.test_dialects import KEY, MODEL
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.distributed import serve_app
from zh_retrieval.server.settings import Settings

serve = pytest.importorskip("ray.serve")
pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.filterwarnings("default")]


class Served:
    """What the dialects' tests ask of a server."""

    def __init__(self, url, settings):
        self.url = url
        self.app = type("App", (), {"settings": settings})

    def post(self, path, body, **keywords):
        return httpx.post(self.url + path, json=body, timeout=60, **keywords)

    def get(self, path, **keywords):
        return httpx.get(self.url + path, timeout=60, **keywords)


@pytest.fixture(scope="module")
def args(tmp_path_factory):
    folder = tiny_xlmr_reranker(tmp_path_factory.mktemp("reranker"))
    return {
        "models": [MODEL, f"bge-reranker-large={folder}"], "options": {"dtype": "float32"},
        "max_body_bytes": 1_000_000, "cors_origins": ["https://a.b"],
    }  # fmt: skip


@pytest.fixture(scope="module")
def server(cluster, args):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    before = os.environ.get("ZH_RETRIEVAL_API_KEY")
    os.environ["ZH_RETRIEVAL_API_KEY"] = "k, second"
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        deployment = {"health_check_period_s": 1, "health_check_timeout_s": 5}
        serve.run(serve_app({**args, "deployment": deployment}), name="retrieval", route_prefix="/")
        yield Served(f"http://127.0.0.1:{port}", Settings(("e5-small-zh",), keys=("k", "second")))
    finally:
        os.environ.pop("ZH_RETRIEVAL_API_KEY")
        if before is not None:
            os.environ["ZH_RETRIEVAL_API_KEY"] = before
        serve.shutdown()


def replicas():
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            line = " ".join(process.cmdline())
        except psutil.Error:
            continue
        if "ServeReplica:retrieval" in line:
            found.append(process)
    return found


def test_a_killed_replica_loses_nothing_that_a_client_asks_again(server, encoder):
    """The client does what ours does: it asks again after a 5xx."""
    texts = [f"第{number}号茶" for number in range(200)]
    answers = {}
    errors = []

    def ask(number):
        end = time.monotonic() + 60
        while time.monotonic() < end:
            try:
                response = server.post("/v1/embeddings", {"input": texts[number]}, headers=KEY)
            except httpx.TransportError:
                time.sleep(0.2)
                continue
            if response.status_code == 200:
                answers[number] = response.json()["data"][0]["embedding"]
                return
            if response.status_code < 500:
                break
            time.sleep(0.2)
        errors.append(number)

    def client(first):
        for number in range(first, len(texts), 8):
            ask(number)

    threads = [threading.Thread(target=client, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    while len(answers) < 40:
        time.sleep(0.01)
    (replica,) = replicas()
    os.kill(replica.pid, signal.SIGKILL)
    for thread in threads:
        thread.join(120)
    assert not errors
    assert replica.pid not in [process.pid for process in replicas()]
    found = np.array([answers[number] for number in range(len(texts))], dtype=np.float32)
    np.testing.assert_allclose(found, encoder.encode_documents(texts), atol=1e-5)


def test_serve_build_takes_the_app_from_a_configuration_file(args):
    from ray.serve.schema import ServeDeploySchema

    text = f"""
applications:
  - name: retrieval
    route_prefix: /
    import_path: zh_retrieval.distributed:serve_app
    args:
      models: [{args["models"][0]}]
    deployments:
      - name: Retrieval
        max_ongoing_requests: 256
        autoscaling_config: {{min_replicas: 1, max_replicas: 4, target_ongoing_requests: 64}}
        ray_actor_options: {{num_cpus: 4}}
"""
    validate = getattr(ServeDeploySchema, "model_validate", None) or ServeDeploySchema.parse_obj  # Ray 2.45
    (application,) = validate(yaml.safe_load(text)).applications
    module, _, name = application.import_path.partition(":")
    assert (module, getattr(__import__(module, fromlist=[name]), name)) == (serve_app.__module__[:24], serve_app)
    bound = serve_app(application.args)
    assert bound._bound_deployment.name == application.deployments[0].name


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "no model"),
        ({"models": "e5-small-zh"}, "expected a list"),
        ({"models": ["e5-small-zh"], "keys": ["k"]}, "ZH_RETRIEVAL_API_KEY"),
        ({"models": ["e5-small-zh"], "model": 3}, "args has model"),
        ({"models": ["e5-small-zh", "e5-small-zh"]}, "twice"),
        ({"models": ["e5-small-zh"], "deployment": {"replicas": 2}}, "Ray Serve refuses"),
        ({"models": ["e5-small-zh"], "deployment": {"num_replicas": -1}}, "Ray Serve refuses"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_starts(given, says):
    with pytest.raises(zr.ConfigError, match=says):
        serve_app(given)


def test_a_model_that_does_not_exist_is_refused_before_anything_starts():
    with pytest.raises(zr.UnknownModelError):
        serve_app({"models": ["nope"]})
