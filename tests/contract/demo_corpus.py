"""The demo corpus as tests of stores need it: passages with a topic, questions, and the ranking by brute force."""

import json
from functools import cache
from pathlib import Path

import numpy as np

import zh_retrieval

FOLDER = Path(zh_retrieval.__file__).parent / "builtin" / "demo"
OPTIONS = {"model": "e5-small-zh", "device": "cpu", "dtype": "float32"}


def passages(count=40):
    """Return (id, text, topic) of the first passages; the topic is one of three, in turn."""
    lines = (FOLDER / "corpus.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [(record["id"], record["text"], f"topic{i % 3}") for i, record in enumerate(map(json.loads, lines))]


def questions(count=8):
    """Return the first questions."""
    lines = (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()[:count]
    return [json.loads(line)["text"] for line in lines]


@cache
def passage_vectors(encoder):
    """Return float32 (N, D), the vectors of `passages()`."""
    return encoder.encode_documents([text for _, text, _ in passages()])


def brute_force(encoder, question, k, topic=None):
    """Return the ids of the k best passages, best first."""
    scores = passage_vectors(encoder) @ encoder.encode_queries([question])[0]
    entries = passages()
    order = [entries[i] for i in np.argsort(-scores, kind="stable")]
    return [name for name, _, found in order if topic in (None, found)][:k]
