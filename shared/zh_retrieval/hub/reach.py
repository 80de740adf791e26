"""Whether there is a way to a hub at all: asked before its client is, which tries a missing network for a long time."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

_PATIENCE = 4.0  # seconds: whoever is slower is left to the client


def no_way(endpoint: str) -> str | None:
    """Return why no connection to a hub, or to the proxy before it, can be made; None if one can, or nobody knows yet.

    An error that comes at once is believed: no address for the name, a refusal, no route.
    """
    if not _has_home():
        return None  # a hub's client needs one, and says so
    url = urlsplit(endpoint)
    proxies = getproxies()
    proxy = None if proxy_bypass(url.hostname or "") else proxies.get(url.scheme) or proxies.get("all")
    there = urlsplit(proxy if "://" in proxy else f"http://{proxy}") if proxy else url
    port = there.port or (443 if there.scheme == "https" else 80)
    found: list[OSError] = []
    thread = threading.Thread(target=_connect, args=(there.hostname or "", port, found), daemon=True)
    thread.start()
    thread.join(_PATIENCE)
    if not found:
        return None
    what = "the proxy of the environment" if proxy else "its address"
    return f"{what}, {there.hostname}:{port}, {_said(found[0])}"


def _has_home() -> bool:
    try:
        Path.home()
    except RuntimeError:
        return False
    return True


def _connect(host: str, port: int, found: list[OSError]) -> None:
    try:
        socket.create_connection((host, port), timeout=_PATIENCE).close()
    except TimeoutError:
        return
    except OSError as error:
        found.append(error)
    except (ValueError, OverflowError):  # no host, no port: the client says what it thinks of that
        return


def _said(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "has no address here (is there a network?)"
    return f"cannot be reached ({error.strerror or type(error).__name__})"
