"""A Hugging Face hub on loopback that speaks the API of the real client, with faults to order."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class HuggingFaceStub:
    """What the hub holds and how it misbehaves; change it while it runs.

    Attributes:
        repositories: id -> commit -> path -> bytes.
        branches: Branch or tag -> commit.
        fail: path ("" is the listing) -> statuses to answer a GET with, one for each request.
        cut: path -> bytes after which the connection is cut, once for each entry in the list.
        corrupt: Paths whose bytes are wrong.
        meeting: Where the senders of files wait for each other before they send; None sends at once.
        delay: Seconds before a file is sent.
        requests: (revision, path, Range header) of every GET; listings have path "".
    """

    repositories: dict[str, dict[str, dict[str, bytes]]]
    branches: dict[str, str] = field(default_factory=dict)
    fail: dict[str, list[int]] = field(default_factory=dict)
    cut: dict[str, list[int]] = field(default_factory=dict)
    corrupt: set[str] = field(default_factory=set)
    meeting: threading.Barrier | None = None
    delay: float = 0.0
    requests: list[tuple[str, str, str | None]] = field(default_factory=list)
    url: str = ""


@contextmanager
def serve(stub: HuggingFaceStub) -> Iterator[HuggingFaceStub]:
    """Serve the stub on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._answer()

        def do_GET(self) -> None:
            self._answer()

        def _answer(self) -> None:
            parts = unquote(urlsplit(self.path).path).strip("/").split("/")
            if parts[:2] == ["api", "models"]:
                id, revision, path = "/".join(parts[2:4]), parts[5] if len(parts) > 5 else "main", ""
            else:  # owner/name/resolve/revision/path
                id, revision, path = "/".join(parts[:2]), parts[3] if len(parts) > 3 else "", "/".join(parts[4:])
            get = self.command == "GET"
            if get:
                stub.requests.append((revision, path, self.headers.get("Range")))
            commit = stub.branches.get(revision, revision)
            files = stub.repositories.get(id, {}).get(commit)
            if get and stub.fail.get(path):
                self._send(stub.fail[path].pop(0), b"{}", {"Retry-After": "0"})
            elif files is None:
                self._send(
                    404, b"{}", {"X-Error-Code": "RevisionNotFound" if id in stub.repositories else "RepoNotFound"}
                )
            elif not path:
                self._send(200, json.dumps(_listing(id, commit, files)).encode())
            elif path not in files:
                self._send(404, b"{}", {"X-Error-Code": "EntryNotFound"})
            else:
                self._file(path, files[path], commit)

        def _file(self, path: str, content: bytes, commit: str) -> None:
            headers = {"X-Repo-Commit": commit, "ETag": f'"{hashlib.sha256(content).hexdigest()}"'}
            if path in stub.corrupt:
                content = bytes(byte ^ 255 for byte in content)
            start, status, size = 0, 200, len(content)
            if self.headers.get("Range"):
                start = int(self.headers["Range"].removeprefix("bytes=").partition("-")[0])
                headers["Content-Range"], status = f"bytes {start}-{size - 1}/{size}", 206
            if self.command == "GET":
                time.sleep(stub.delay)
                if stub.meeting is not None:
                    stub.meeting.wait()
                if stub.cut.get(path):
                    headers["Content-Length"] = str(size - start)
                    self._head(status, headers)
                    self.wfile.write(content[start:][: stub.cut[path].pop(0)])
                    self.wfile.flush()
                    self.close_connection = True
                    self.connection.close()
                    return
            self._send(status, content[start:], headers)

        def _head(self, status: int, headers: dict[str, str]) -> None:
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self._head(status, {"Content-Length": str(len(body)), **(headers or {})})
            if self.command == "GET":
                self.wfile.write(body)

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass  # a client that goes away is part of the tests

    server = Server(("127.0.0.1", 0), Handler)
    stub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield stub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def _listing(id: str, commit: str, files: dict[str, bytes]) -> dict[str, object]:
    siblings = []
    for path, content in files.items():
        entry: dict[str, object] = {"rfilename": path, "size": len(content)}
        if path.endswith((".safetensors", ".bin")):
            digest = hashlib.sha256(content).hexdigest()
            entry["lfs"] = {"sha256": digest, "size": len(content), "pointerSize": 134}
        siblings.append(entry)
    return {"id": id, "modelId": id, "sha": commit, "siblings": siblings}
