"""A Unix socket to listen on, for a proxy on the same machine."""

from __future__ import annotations

import os
import socket
import stat
from contextlib import suppress
from pathlib import Path

from zh_retrieval.errors import ConfigError

_LONGEST = 100  # bytes of a socket's path that every system takes


def listening(file: str) -> socket.socket:
    """Return a socket that listens at a file; one that a dead process left there is replaced.

    Raises:
        ConfigError: Something else is there, somebody listens, or the system has no such sockets.
    """
    if not hasattr(socket, "AF_UNIX"):
        raise ConfigError("This system has no Unix sockets. Leave --unix-socket out.")
    if len(os.fsencode(file)) > _LONGEST:
        raise ConfigError(f"--unix-socket has {len(os.fsencode(file))} bytes, at most {_LONGEST} are possible.")
    path = Path(file)
    found = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if path.exists():
            _check_left_over(path)
            path.unlink()
        found.bind(file)
        path.chmod(0o660)
        found.listen(2048)
    except OSError as error:
        found.close()
        raise ConfigError(f"Cannot listen on {file!r}: {error.strerror}. Choose another --unix-socket.") from error
    except ConfigError:
        found.close()
        raise
    return found


def forget(file: str) -> None:
    """Remove the file of a socket that was closed."""
    with suppress(OSError):
        Path(file).unlink()


def _check_left_over(path: Path) -> None:
    if not stat.S_ISSOCK(path.stat().st_mode):
        raise ConfigError(f"{str(path)!r} is there and no socket. Choose another --unix-socket.")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as other, suppress(ConnectionRefusedError):
        other.connect(str(path))
        raise ConfigError(f"Somebody listens on {str(path)!r}. Choose another --unix-socket.")
