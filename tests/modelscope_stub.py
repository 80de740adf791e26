"""A ModelScope hub on loopback that speaks the API of the real client, with faults to order."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit


@dataclass
class Stub:
    """What the hub holds and how it misbehaves; change it while it runs.

    Attributes:
        repositories: id -> path -> bytes.
        listing: Replaces parts of a listed file's entry: path -> fields.
        extra: Entries that are listed besides the real files.
        answer: Replaces the body of a listing.
        cut: path -> bytes after which the connection is cut, once for each entry in the list.
        stall: path ("" is the listing) -> bytes after which the hub falls silent, once for each entry in the list.
        lengths: path -> what is added to the true Content-Length, once for each entry in the list.
        unsized: Paths that are sent without Content-Length.
        fail: path ("" is the listing) -> statuses to answer with, one for each request.
        retry_after: The Retry-After header of such an answer.
        corrupt: Paths whose bytes are wrong.
        ranges: False ignores Range requests.
        delay: Seconds before a file is sent.
        requests: (path, Range header) of every file asked for; listings have path "".
    """

    repositories: dict[str, dict[str, bytes]]
    listing: dict[str, dict[str, object]] = field(default_factory=dict)
    extra: list[dict[str, object]] = field(default_factory=list)
    answer: bytes | None = None
    cut: dict[str, list[int]] = field(default_factory=dict)
    stall: dict[str, list[int]] = field(default_factory=dict)
    lengths: dict[str, list[int]] = field(default_factory=dict)
    unsized: set[str] = field(default_factory=set)
    fail: dict[str, list[int]] = field(default_factory=dict)
    retry_after: str = "0"
    corrupt: set[str] = field(default_factory=set)
    ranges: bool = True
    delay: float = 0.0
    requests: list[tuple[str, str | None]] = field(default_factory=list)
    url: str = ""
    closing: threading.Event = field(default_factory=threading.Event)

    def heal(self) -> None:
        """Forget every fault, but not what is held or was asked for."""
        for faults in (self.listing, self.extra, self.cut, self.stall, self.lengths, self.unsized, self.fail):
            faults.clear()
        self.corrupt.clear()
        self.answer, self.ranges, self.delay = None, True, 0.0


@contextmanager
def serve(stub: Stub) -> Iterator[Stub]:
    """Serve the stub on a free loopback port until the block ends."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            pass

        def do_HEAD(self) -> None:
            self._send(200, b"")

        def do_GET(self) -> None:
            parts = urlsplit(self.path)
            query = parse_qs(parts.query)
            names = parts.path.split("/")  # /api/v1/models/owner/name/repo[/files]
            repository = stub.repositories.get("/".join(names[4:6])) if len(names) > 5 else None
            path = query.get("FilePath", [""])[0]
            stub.requests.append((path, self.headers.get("Range")))
            if stub.fail.get(path):
                status = stub.fail[path].pop(0)
                self._send(status, b'{"Code": 1, "Message": "ordered"}', {"Retry-After": stub.retry_after})
            elif repository is None or (path and path not in repository):
                self._send(404, b'{"Code": 10010205001, "Success": false, "Message": "not found"}')
            elif path:
                self._file(path, repository[path])
            elif names[-1] == "files":
                if _next(stub.stall, "") is not None:
                    stub.closing.wait(30)
                listing = json.dumps(_listing(stub, repository)).encode()
                self._send(200, listing if stub.answer is None else stub.answer)
            else:
                self._send(200, b'{"Code": 200, "Success": true, "Data": {}}')

        def _file(self, path: str, content: bytes) -> None:
            time.sleep(stub.delay)
            if path in stub.corrupt:
                content = bytes(byte ^ 255 for byte in content)
            start, status, headers = 0, 200, {}
            requested = self.headers.get("Range")
            if requested and stub.ranges:
                first, _, last = requested.removeprefix("bytes=").partition("-")
                start, end = int(first), int(last) + 1 if last else len(content)
                headers["Content-Range"] = f"bytes {start}-{end - 1}/{len(content)}"
                status, content = 206, content[start:end]
            cut, stall, more = (_next(faults, path) for faults in (stub.cut, stub.stall, stub.lengths))
            if cut is None and stall is None and more is None and path not in stub.unsized:
                self._send(status, content, headers)
                return
            if path not in stub.unsized:
                headers["Content-Length"] = str(len(content) + (more or 0))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content[: min(end for end in (cut, stall, len(content) + (more or 0)) if end is not None)])
            self.wfile.flush()
            if stall is not None:
                stub.closing.wait(30)
            self.close_connection = True
            self.connection.close()

        def _send(self, status: int, body: bytes, headers: dict[str, str] | None = None) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.end_headers()
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
        stub.closing.set()
        server.shutdown()
        server.server_close()
        thread.join()


def _next(faults: dict[str, list[int]], path: str) -> int | None:
    return faults[path].pop(0) if faults.get(path) else None


def _listing(stub: Stub, repository: dict[str, bytes]) -> dict[str, object]:
    entries = []
    for path, content in repository.items():
        digest = hashlib.sha256(content).hexdigest()
        entry = {"Name": path.split("/")[-1], "Path": path, "Type": "blob", "Size": len(content), "Sha256": digest}
        entries.append(entry | stub.listing.get(path, {}))
    return {"Code": 200, "Success": True, "Data": {"Files": [*entries, *stub.extra]}}
