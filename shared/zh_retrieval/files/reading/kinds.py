"""Which files can be read: one table from a name's ending to what is in the file, and one to what unpacks it."""

from __future__ import annotations

import gzip
import importlib
import io
import sys
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import PurePath
from typing import Any, BinaryIO, Literal, cast

from zh_retrieval.errors import InputError

Format = Literal["json", "csv", "tsv", "text", "markdown", "parquet", "arrow"]

FORMATS: dict[str, Format] = {
    ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "tsv", ".txt": "text",
    ".md": "markdown", ".markdown": "markdown", ".parquet": "parquet", ".arrow": "arrow",
}  # fmt: skip
COLUMNS = ("parquet", "arrow")
"""Formats whose values have types of their own, and which need pyarrow."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a file holds, and what it is packed with: ".gz", ".zst" or None."""

    format: Format
    packed: str | None = None


def kind_of(name: str) -> Kind | None:
    """Return what a file's name says it is ("a.jsonl.gz": packed JSON lines), or None if it says nothing."""
    path = PurePath(name)
    packed = path.suffix.lower() if path.suffix.lower() in _UNPACK else None
    ending = PurePath(path.stem).suffix.lower() if packed else path.suffix.lower()
    return Kind(FORMATS[ending], packed) if ending in FORMATS else None


def endings() -> str:
    """Return the endings that are known, as a message names them."""
    return f"{', '.join(FORMATS)}, each also with {' or '.join(_UNPACK)} behind it"


def unpack(stream: BinaryIO, packed: str | None, name: str) -> BinaryIO:
    """Return what a file's bytes unpack to; reading it raises InputError, which has the `name`, where it is broken."""
    if packed is None:
        return stream
    return cast("BinaryIO", io.BufferedReader(_Unpacked(_UNPACK[packed](stream), stream, name), 1 << 18))


def _unzstd(stream: BinaryIO) -> Any:
    if sys.version_info >= (3, 14):
        return importlib.import_module("compression.zstd").open(stream)
    from backports import zstd

    return zstd.open(stream)


_UNPACK: dict[str, Callable[[BinaryIO], Any]] = {".gz": gzip.open, ".zst": _unzstd}


class _Unpacked(io.RawIOBase):
    """Unpacked bytes whose errors say which file is broken."""

    def __init__(self, unpacked: Any, packed: BinaryIO, name: str) -> None:
        self._unpacked, self._packed, self._name = unpacked, packed, name

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        content = self._try(self._unpacked.read, len(buffer))
        buffer[: len(content)] = content
        return len(content)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return int(self._try(self._unpacked.seek, offset, whence))

    def tell(self) -> int:
        return int(self._unpacked.tell())

    def close(self) -> None:
        if not self.closed:
            self._unpacked.close()
            self._packed.close()
        super().close()

    def _try(self, call: Callable[..., Any], *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except EOFError:
            raise InputError(f"{self._name} ends in the middle of its packed data. Copy it again.") from None
        except (gzip.BadGzipFile, zlib.error) as error:
            raise InputError(f"{self._name} cannot be unpacked: {error}. Copy it again, or correct its name.") from None
        except Exception as error:
            if type(error).__name__ != "ZstdError":
                raise
            raise InputError(f"{self._name} cannot be unpacked: {error}. Copy it again, or correct its name.") from None
