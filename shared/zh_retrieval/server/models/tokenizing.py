"""Texts to tokens for whoever counts them: within limits, in a thread of its own, written as they come."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import orjson

from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.models.threads import apart

if TYPE_CHECKING:
    from zh_retrieval.tokenization.tokenizer import TextTokenizer

MOST = 1_100_000  # characters of a request: 2048 texts of 512 and a few
LONGEST = 100_000  # characters of a text: its tokens are objects of Python all at once
_LONG = 10_000  # characters of a text after which the thread rests
_REQUESTS = 2  # of that size that may wait
_WRITTEN = 1000  # tokens that are written at a time


class Tokenizing:
    """Tokenizes for all requests, one after the other."""

    def __init__(self) -> None:
        self._waiting = 0
        self._turn = asyncio.Semaphore(1)

    async def tokens(self, tokenizer: TextTokenizer, texts: list[str], *, special: bool) -> memoryview:
        """Return the tokens of each text as TEI writes them, as JSON.

        Args:
            tokenizer: Of the model.
            texts: With the prompts they get.
            special: Whether the tokens around each text are given too.

        Raises:
            RequestError: 413, there are too many characters; 429, too many wait.
        """
        size = sum(map(len, texts))
        for what, characters, most in (("inputs", size, MOST), ("A text of inputs", max(map(len, texts)), LONGEST)):
            if characters > most:
                raise RequestError(
                    413, f"{what} has {characters} characters, more than the {most} that are tokenized. Split it.",
                    "too_long", "inputs",
                )  # fmt: skip
        if self._waiting + size > _REQUESTS * MOST:
            raise RequestError(429, "Too many characters wait to be tokenized. Try again.", "overloaded", "inputs")
        self._waiting += size
        try:
            await self._turn.acquire()
            work = asyncio.ensure_future(apart(lambda: _json(tokenizer, texts, special)))
            work.add_done_callback(lambda _: self._turn.release())  # when it has ended, whoever still waits for it
            return memoryview(await asyncio.shield(work))
        finally:
            self._waiting -= size


def _json(tokenizer: TextTokenizer, texts: list[str], special: bool) -> bytearray:
    before, after = (_outside(tokenizer, ids if special else ()) for ids in (tokenizer.prefix, tokenizer.suffix))
    written = bytearray(b"[")
    for text in texts:
        begin = time.perf_counter()
        written += b"["
        for part in itertools.chain((before,), _inner(tokenizer, text), (after,)):
            written += part + b"," if part else b""
        written[-1:] = b"]," if written[-1:] == b"," else b"[],"
        if len(text) > _LONG:
            time.sleep(time.perf_counter() - begin)  # others want Python's lock, too
    written[-1:] = b"]"
    return written


def _inner(tokenizer: TextTokenizer, text: str) -> Iterator[bytes]:
    ids, offsets = tokenizer.ids_with_offsets(text)
    for first in range(0, len(ids), _WRITTEN):
        part = zip(ids[first : first + _WRITTEN], offsets[first : first + _WRITTEN], strict=True)
        yield _objects(
            {"id": token, "text": text[low:high], "special": False, "start": low, "stop": high}
            for token, (low, high) in part
        )


def _outside(tokenizer: TextTokenizer, ids: tuple[int, ...]) -> bytes:
    return _objects(
        {"id": token, "text": tokenizer.tokenizer.id_to_token(token), "special": True, "start": None, "stop": None}
        for token in ids
    )


def _objects(tokens: Iterator[dict[str, Any]]) -> bytes:
    return orjson.dumps(list(tokens))[1:-1]
