"""A server on loopback that answers what a test tells it to, and writes down what it was asked."""

import gzip
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np

from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.recipes.registry import get_spec

OCTETS = "application/octet-stream"
WIDTH = 768  # of bge-base-zh


class Stub:
    """What the server does.

    Attributes:
        asked: (method, path, headers, body as JSON) of every request.
        answer: Called with the last three; returns (status, headers, body bytes), or None to hang up.
    """

    def __init__(self, answer):
        self.asked = []
        self.answer = answer
        self.hung_up = threading.Event()  # a client left before its answer

    def paths(self):
        return [path for _, path, _, _ in self.asked]


def reply(body, status=200, **headers):
    """Return an answer: bytes as they are, else JSON."""
    if isinstance(body, bytes):
        return status, {"content-type": OCTETS, **headers}, body
    return status, {"content-type": "application/json", **headers}, json.dumps(body).encode()


@contextmanager
def serving(answer):
    """Yield (base_url, stub) of a running server."""
    stub = Stub(answer)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _do(self):
            raw = self.rfile.read(int(self.headers.get("content-length", 0)))
            if self.headers.get("content-encoding") == "gzip":
                raw = gzip.decompress(raw)
            body = json.loads(raw) if raw else None
            headers = {name.lower(): value for name, value in self.headers.items()}
            stub.asked.append((self.command, self.path, headers, body))
            answer = stub.answer(self.path, headers, body)
            if answer is None:
                self.close_connection = True
                return
            status, headers, content = answer
            try:
                self.send_response(status)
                for name, value in {"content-length": str(len(content)), **headers}.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)
                if len(content) < int({"content-length": len(content), **headers}["content-length"]):
                    self.close_connection = True
            except OSError:
                stub.hung_up.set()

        do_GET = do_POST = _do  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", stub
    finally:
        server.shutdown()
        server.server_close()


def described(name="bge-base-zh", weights="w1", **changes):
    """Return what our own server says of a model."""
    spec = get_spec(name)
    said = {
        "id": spec.name,
        "task": "embed" if spec.task == "embedding" else "rerank",
        "recipe": recipe_hash(spec),
        "dimension": spec.dimension,
        "max_length": 512,
        "weights": weights,
        "dtype": "bfloat16",
        "quantization": None,
        "limits": {"max_texts": 3, "max_body_bytes": 100_000},
    }
    return {"version": "0", "models": [said | changes]}


def rows(count, width=4, start=0.0):
    """Return float32 (count, width): row i points along axis i modulo width, its length 1."""
    out = np.zeros((count, width), dtype=np.float32)
    out[np.arange(count), (np.arange(count) + int(start)) % width] = 1
    return out


def own(embed=None, models=None, score=None):
    """Return an answer that speaks our own dialect; `embed(body)` and `score(body)` give an answer or None."""
    listed = models or described()

    def answer(path, headers, body):
        if path.endswith("/models"):
            return reply(listed() if callable(listed) else listed)
        if path.endswith("/score"):
            return (score or (lambda body: scores_of(body["pairs"])))(body)
        return (embed or (lambda body: vectors_of(body["texts"])))(body)

    return answer


def vector(text):
    """Return the made-up vector of a text, of length 1."""
    found = np.zeros(WIDTH, dtype=np.float32)
    found[:4] = len(text), text.count("茶") + 1, sum(map(ord, text)) % 97 + 1, 1
    return found / np.linalg.norm(found)


def vectors_of(texts, **headers):
    return reply(np.stack([vector(text) for text in texts]).astype("<f4").tobytes(), **{"x-weights": "w1"} | headers)


def scores_of(pairs, **headers):
    return reply(np.array([len(a) - len(b) for a, b in pairs], dtype="<f4").tobytes(), **{"x-weights": "w1"} | headers)
