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
_PATIENCE = 60  # seconds: a busy machine takes its time, a fault takes for ever


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
            message = json.loads(self._socket.recv(timeout=_PATIENCE))
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

    def wait(self, expression: str, seconds: float = _PATIENCE) -> Any:
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


class Browser:
    """A Chromium that runs; every tab has cookies and storage of its own."""

    def __init__(self, port: str, whole: ClientConnection) -> None:
        self._port = port
        self._whole = whole
        self._next = 0

    def _call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._next += 1
        self._whole.send(json.dumps({"id": self._next, "method": method, "params": parameters}))
        while (message := json.loads(self._whole.recv(timeout=_PATIENCE))).get("id") != self._next:
            pass
        assert "error" not in message, message
        found: dict[str, Any] = message["result"]
        return found

    @contextmanager
    def tab(self) -> Iterator[Page]:
        """Yield an empty tab."""
        context = self._call("Target.createBrowserContext")["browserContextId"]
        made = self._call("Target.createTarget", url="about:blank", browserContextId=context, width=1200, height=900)
        url = f"ws://127.0.0.1:{self._port}/devtools/page/{made['targetId']}"
        try:
            with connect(url, proxy=None, max_size=None, open_timeout=_PATIENCE) as socket:
                yield Page(socket)
        finally:
            self._call("Target.disposeBrowserContext", browserContextId=context)


@contextmanager
def browsing(folder: Path, language: str = "en") -> Iterator[Browser]:
    """Yield a browser; skip the test where there is no Chromium."""
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
        deadline = time.monotonic() + _PATIENCE
        while not (port.exists() and port.read_text().count("\n")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        number, path = port.read_text().split("\n")[:2]
        url = f"ws://127.0.0.1:{number}{path}"
        with connect(url, proxy=None, max_size=None, open_timeout=_PATIENCE) as whole:
            yield Browser(number, whole)
    finally:
        process.kill()
        process.wait()
