"""What is measured: Chinese texts, queries and pairs of natural length, the same on every run."""

from __future__ import annotations

import json
import random
from functools import lru_cache
from pathlib import Path

_FOLDER = Path(__file__).parent.parent / "builtin" / "demo"
_LONGEST = 500  # characters; one is about one token


def texts(count: int, seed: int = 0) -> list[str]:
    """Return passages of 15 to 500 characters, log-normal around 80, cut from the demo corpus."""
    source, rng = _source(), random.Random(seed)
    return [_cut(source, rng, int(min(_LONGEST, max(15, rng.lognormvariate(4.4, 0.7))))) for _ in range(count)]


def even_texts(count: int, seed: int = 2) -> list[str]:
    """Return passages of 90 to 135 characters: hardly anything to pad."""
    source, rng = _source(), random.Random(seed)
    return [_cut(source, rng, rng.randint(90, 135)) for _ in range(count)]


def queries(count: int, seed: int = 1) -> list[str]:
    """Return queries of 6 to 8 characters."""
    source, rng = _source(), random.Random(seed)
    return [_cut(source, rng, rng.randint(6, 8)) for _ in range(count)]


def pairs(count: int) -> list[tuple[str, str]]:
    """Return (query, document), ten documents for each demo question."""
    lines = (_FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    asked = [json.loads(line)["text"] for line in lines]
    return [(asked[i // 10 % len(asked)], text) for i, text in enumerate(texts(count))]


def _cut(source: str, rng: random.Random, length: int) -> str:
    start = rng.randrange(len(source) - _LONGEST)
    return source[start : start + length]


@lru_cache(maxsize=1)
def _source() -> str:
    lines = (_FOLDER / "corpus.jsonl").read_text(encoding="utf-8").splitlines()
    return "".join(json.loads(line)["text"].replace("\n", "") for line in lines)
