"""A server process with a made-up model, as its user would start it: `python -m tests.server.program KIND DRAIN`.

Kinds: "loads" takes an hour to load, in native code; "computes" takes 50 ms for each request, its vectors are long.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time

import numpy as np

from zh_retrieval.server.app import App
from zh_retrieval.server.host import Host
from zh_retrieval.server.operation.logs import log_requests
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder


class Slow(FakeEncoder):
    def __init__(self, kind: str) -> None:
        super().__init__(4096)
        self.kind = kind

    def encode_documents(self, texts: list[str], *, show_progress: bool = False) -> np.ndarray:
        if self.kind == "loads":
            time.sleep(3600)
        return super().encode_documents(texts)

    async def aencode_documents(self, texts: list[str], *, show_progress: bool = False) -> np.ndarray:
        await asyncio.sleep(0.05)
        return super().encode_documents(texts)


def main() -> int:
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # tests that run under nohup ignore it, and so would this
    kind, drain = sys.argv[1:]
    log_requests("json")
    app = App(Settings(handles={"slow": Slow(kind)}))
    host = Host(app, "127.0.0.1", 0, float(drain), lambda url: print(url, flush=True))
    host.run()
    return host.status


if __name__ == "__main__":
    sys.exit(main())
