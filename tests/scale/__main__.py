"""What many passages cost the lexical side: `python -m tests.scale --passages 1000000 --qdrant 5000`.

Prints the seconds and bytes of a BM25 index, milliseconds of a query, and the same of sparse vectors in Qdrant's local
mode, which looks at every point. Passages are made up: see `tests.scale.corpus`.
"""

from __future__ import annotations

import argparse
import resource
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import TypeVar

import zh_retrieval as zr
from tests.scale.corpus import Language
from zh_retrieval.evaluation.systems.measuring import Memory
from zh_retrieval.sparse.index import BM25Index

ResultT = TypeVar("ResultT")

QUESTIONS = 300
DEPTH = 100


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--passages", type=int, default=1_000_000)
    parser.add_argument("--qdrant", type=int, default=0, metavar="N", help="points in Qdrant's local mode; 0 for none")
    parser.add_argument("--save", type=Path, metavar="FILE", help="save the index there, and search it mapped")
    arguments = parser.parse_args()
    if arguments.passages:
        bm25(arguments.passages, arguments.save)
    if arguments.qdrant:
        qdrant(arguments.qdrant)


def bm25(count: int, file: Path | None) -> None:
    every = max(1, count // QUESTIONS)
    wanted: dict[int, str] = {}
    making = 0.0

    def passages() -> Iterator[str]:
        nonlocal making
        made = enumerate(Language().passages(count))
        while True:
            begun = time.process_time()
            place, passage = next(made, (-1, ""))
            making += time.process_time() - begun
            if place < 0:
                return
            if place % every == 0 and len(wanted) < QUESTIONS:
                wanted[place] = passage
            yield passage

    before, begun = _resident(), time.process_time()
    index = BM25Index(passages())
    seconds = time.process_time() - begun - making
    held, peak = _resident() - before, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(f"{count:,} passages: index in {seconds:,.0f} s of one core, {count / seconds:,.0f} passages/s", end=", ")
    print(
        f"{index.nbytes / 1e6:,.0f} MB, the process grew by {held / 1e6:,.0f} MB, and had {peak / 1e6:,.0f} MB at most"
    )
    questions = Language(1).questions(list(wanted.values()))
    found = timed(lambda question: index.search(question, DEPTH), questions)
    right = sum(bool(hits) and hits[0][0] == place for hits, place in zip(found, wanted, strict=True))
    print(f"{right} of {len(questions)} questions find the passage that they were made of first")
    if file is not None:
        index.save(file)
        mapped = BM25Index.load(file)
        print(f"saved in {file.stat().st_size / 1e6:,.0f} MB; mapped from the file", end=": ")
        assert timed(lambda question: mapped.search(question, DEPTH), questions) == found


def _resident() -> int:
    memory = Memory()
    memory.look()
    return memory.peak or 0


def qdrant(count: int) -> None:
    from qdrant_client import QdrantClient, models

    language = Language()
    passages = list(language.passages(count))
    questions = language.questions(passages[:: max(1, count // 50)])[:50]
    client, encoder = QdrantClient(":memory:"), zr.load_sparse_encoder("bm25-zh")
    sparse = models.SparseVectorParams(modifier=models.Modifier.IDF)
    client.create_collection("p", vectors_config={}, sparse_vectors_config={"sparse": sparse})
    begun = time.process_time()
    vectors = encoder.encode_documents(passages)
    encoding = time.process_time() - begun
    for low in range(0, count, 1000):
        batch = [
            models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
            for vector in vectors[low : low + 1000]
        ]
        ids = list(range(low, low + len(batch)))
        client.upsert("p", models.Batch(ids=ids, vectors={"sparse": batch}, payloads=[{}] * len(ids)))
    seconds = time.process_time() - begun - encoding
    print(f"Qdrant, local mode, {count:,} points: encoded in {encoding:,.1f} s of one core, sent in {seconds:,.1f} s")

    def ask(question: str) -> object:
        (vector,) = encoder.encode_queries([question])
        query = models.SparseVector(indices=vector.indices.tolist(), values=vector.values.tolist())
        return client.query_points("p", query=query, using="sparse", limit=DEPTH).points

    timed(ask, questions)
    client.close()


def timed(ask: Callable[[str], ResultT], questions: Sequence[str]) -> list[ResultT]:
    """Return what each question gets, and print how long one takes: by the clock, and of one core."""
    ask(questions[0])
    found, clock, core = [], [], []
    for question in questions:
        begun, used = time.perf_counter(), time.process_time()
        found.append(ask(question))
        clock.append((time.perf_counter() - begun) * 1000)
        core.append((time.process_time() - used) * 1000)
    for name, taken in (("of one core", sorted(core)), ("by the clock", sorted(clock))):
        print(
            f"a query of {DEPTH}, ms {name}: median {median(taken):.1f}, 95 % {taken[int(len(taken) * 0.95)]:.1f}, "
            f"longest {taken[-1]:.1f}"
        )
    return found


if __name__ == "__main__":
    main()
