"""Debian's Chromium without a window, driven over its DevTools protocol as a person would: keys, eyes, no shortcuts."""

from __future__ import annotations

import base64
import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import ClientConnection, connect

_KEYS = {"Tab": 9, "Enter": 13, "Space": 32, "ArrowDown": 40, "a": 65}
CONTROL, SHIFT = 2, 8


class Page:
    """One tab.

    Attributes:
        complaints: What the console said, and what broke the page's own policy.
        requests: Every address that was asked for.
    """

    def __init__(self, socket: ClientConnection) -> None:
        self._socket = socket
        self._next = 0
        self.complaints: list[str] = []
        self.requests: list[str] = []
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command, and return its result."""
        self._next += 1
        self._socket.send(json.dumps({"id": self._next, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=30))
            if message.get("id") == self._next:
                assert "error" not in message, message
                found: dict[str, Any] = message["result"]
                return found
            self._heard(message)

    def _heard(self, message: dict[str, Any]) -> None:
        said = message.get("params", {})
        if message["method"] == "Network.requestWillBeSent":
            self.requests.append(said["request"]["url"])
        elif message["method"] in ("Runtime.consoleAPICalled", "Runtime.exceptionThrown", "Log.entryAdded"):
            self.complaints.append(json.dumps(said, ensure_ascii=False))

    def value(self, expression: str) -> Any:
        """Return what an expression is in the page."""
        found = self.call("Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait(self, expression: str, seconds: float = 20) -> Any:
        """Wait until an expression is true, and return it."""
        deadline = time.monotonic() + seconds
        while not (found := self.value(expression)):
            assert time.monotonic() < deadline, (expression, self.value("document.body.innerText"))
            time.sleep(0.05)
        return found

    def open(self, url: str) -> None:
        self.call("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def press(self, key: str, modifiers: int = 0) -> None:
        code = {"key": " " if key == "Space" else key, "windowsVirtualKeyCode": _KEYS[key], "modifiers": modifiers}
        text = {"Enter": "\r", "Space": " "}.get(key) if not modifiers else None
        down = {"type": "keyDown", "text": text} if text else {"type": "rawKeyDown"}
        self.call("Input.dispatchKeyEvent", **down, **code)
        self.call("Input.dispatchKeyEvent", type="keyUp", **code)

    def write(self, text: str) -> None:
        """Replace what the field with the focus holds."""
        self.value("document.activeElement.select()")
        self.call("Input.insertText", text=text)

    def shot(self, file: Path) -> None:
        """Save a picture of the whole page."""
        data = self.call("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        file.write_bytes(base64.b64decode(data))


@contextmanager
def browsing(folder: Path, language: str = "en") -> Iterator[Page]:
    """Yield an empty tab; skip the test where there is no Chromium."""
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        pytest.skip("no Chromium installed")
    command = [
        program, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--remote-debugging-port=0",
        f"--user-data-dir={folder / 'profile'}", f"--accept-lang={language}", "--window-size=1200,900", "about:blank",
    ]  # fmt: skip
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port = folder / "profile" / "DevToolsActivePort"
        deadline = time.monotonic() + 30
        while not (port.exists() and port.read_text().count("\n")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        number, path = port.read_text().split("\n")[:2]
        with connect(f"ws://127.0.0.1:{number}{path}", proxy=None, max_size=None) as whole:
            whole.send(json.dumps({"id": 1, "method": "Target.getTargets"}))
            while "result" not in (message := json.loads(whole.recv(timeout=30))):
                pass
            tab = next(info["targetId"] for info in message["result"]["targetInfos"] if info["type"] == "page")
        with connect(f"ws://127.0.0.1:{number}/devtools/page/{tab}", proxy=None, max_size=None) as socket:
            yield Page(socket)
    finally:
        process.kill()
        process.wait()
