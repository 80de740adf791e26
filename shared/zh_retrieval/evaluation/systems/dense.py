"""An embedding model and exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zh_retrieval.base import Encoder
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.evaluation.dataset import Passage
from zh_retrieval.evaluation.faults.finding import cut_faults
from zh_retrieval.evaluation.run import Costs, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.index import Index
from zh_retrieval.evaluation.systems.measuring import SAMPLE, Memory, median_ms
from zh_retrieval.evaluation.systems.search import search, similarities
from zh_retrieval.evaluation.systems.store import Lazy, Store, Weights, digest
from zh_retrieval.progress import Bar

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1024  # passages or queries that are encoded and kept at a time: what a killed run loses at most
_CALLERS = 16  # documents under way at once in late chunking; they share forward passes
_HELD = 1 << 30  # bytes of vectors that are held in memory while single searches are timed; more are scaled up


@dataclass(frozen=True, slots=True)
class Reading:
    """How a model is given questions and passages.

    Attributes:
        instruction: Replaces the model's own; "" leaves it out.
        title: Whether a passage's title is put before its text.
        chunk: Characters of a chunk, each with a vector of its own; the best one counts. None: one vector a passage.
        late: Whether chunks are seen in the whole passage (late chunking).
    """

    instruction: str | None = None
    title: bool = True
    chunk: int | None = None
    late: bool = False


class Dense(System):
    """An embedding model. It is loaded when something has to be computed, and closed when the search ends."""

    def __init__(
        self,
        name: str,
        load: Callable[[], Encoder],
        recipe: Mapping[str, Any],
        store: Store,
        *,
        reading: Reading = Reading(),
        settings: Mapping[str, Any] | None = None,
        conditions: str = "",
        weights: Weights | None = None,
    ) -> None:
        """Take a model.

        Args:
            name: How tables call it.
            load: Opens the encoder.
            recipe: All that its vectors depend on; vectors of equal recipes and texts are computed once.
            store: Where vectors are kept.
            reading: How it is given questions and passages.
            settings: For the report.
            conditions: Key of all that times depend on; times kept under another key are not shown.
            weights: Tells other weights of an equal recipe apart; None where the recipe says it all.
        """
        self.name = name
        self.settings = dict(settings or {})
        self._conditions = conditions
        self._load, self._recipe, self._store = load, recipe, store
        self._reading, self._weights = reading, weights

    def chunked(self, size: int | None) -> Dense:
        """Return the same model with a vector for every `size` characters of a passage (None: one a passage)."""
        reading = replace(self._reading, chunk=size)
        name = f"{self.name}, chunks of {size}" if size else f"{self.name}, whole passages"
        return Dense(
            name, self._load, self._recipe, self._store,
            reading=reading, settings=self.settings, conditions=self._conditions, weights=self._weights,
        )  # fmt: skip

    def search(self, task: Task) -> Run:
        """Return the passages of the highest inner product; of a passage in chunks the best chunk counts."""
        memory = Memory()
        with ExitStack() as stack:
            model = Lazy(self._load, stack)
            self._open_shelves(model)
            index = self._index(task, model, memory)
            texts = [task.dataset.queries[query] for query in task.query_ids]
            queries = self._queries(texts, model)
            with Bar(task.show_progress, desc=f"{self.name}: search", total=len(index.ids), unit="passage") as bar:
                found = search(queries, index.blocks, index.ids, task.depth, bar.advance)
                memory.look()
            costs = self._costs(index, texts, task.depth, model, memory)
        faults = tuple(cut_faults(index.cuts, len(index.ids), index.limit))
        return Run(dict(zip(task.query_ids, found, strict=True)), costs, faults)

    def similarities(self, task: Task, wanted: Mapping[str, Sequence[str]]) -> dict[str, dict[str, float]]:
        """Return query id -> passage id -> inner product, for these passages of each of `task.query_ids`."""
        with ExitStack() as stack:
            model = Lazy(self._load, stack)
            self._open_shelves(model)
            index = self._index(task, model, Memory())
            vectors = self._queries([task.dataset.queries[query] for query in task.query_ids], model)
            return similarities(dict(zip(task.query_ids, vectors, strict=True)), wanted, index.blocks(), index.ids)

    def _open_shelves(self, model: Lazy[Encoder]) -> None:
        recipe, reading = dict(self._recipe), self._reading
        if self._weights is not None:
            recipe["fingerprint"] = self._weights.fingerprint(self._store, self._recipe, model.get)
        documents = {"title": reading.title, "chunk": reading.chunk, "late": reading.late}
        self._shelf = self._store.shelf("vectors", {**recipe, "as": "document", **documents})
        self._queries_shelf = self._store.shelf(
            "vectors", {**recipe, "as": "query", "instruction": reading.instruction}
        )

    def _index(self, task: Task, model: Lazy[Encoder], memory: Memory) -> Index:
        ids = list(task.dataset.corpus)
        index = Index(ids, self._shelf, self._conditions)
        with Bar(task.show_progress, desc=f"{self.name}: passages", total=len(ids), unit="passage") as bar:
            for low in range(0, len(ids), _BLOCK):
                names = ids[low : low + _BLOCK]
                passages = [task.dataset.corpus[name] for name in names]
                texts = [passage.joined(title=self._reading.title) for passage in passages]
                key = digest(texts)
                block = self._shelf.load(key)
                if block is None:
                    block = self._encode(texts, passages, model.get())
                    self._shelf.save(key, block)
                    memory.look()
                    index.computed += 1
                index.add(key, names, block)
                bar.advance(len(names))
        return index

    def _encode(self, texts: Sequence[str], passages: Sequence[Passage], encoder: Encoder) -> dict[str, np.ndarray]:
        import numpy as np

        start = time.perf_counter()
        if self._reading.chunk is None:
            vectors, counts = encoder.encode_documents(texts), [1] * len(texts)
        elif self._reading.late:
            vectors, counts = _late_chunks(encoder, texts, self._reading.chunk)
        else:
            chunks = [_chunks(passage, self._reading.title, self._reading.chunk) for passage in passages]
            vectors = encoder.encode_documents([chunk for found in chunks for chunk in found])
            counts = [len(found) for found in chunks]
        seconds = time.perf_counter() - start
        tokens = encoder.token_counts(texts) if self._reading.chunk is None else None
        return {
            "vectors": vectors,
            "counts": np.array(counts, dtype=np.int64),
            "seconds": np.array(seconds),
            "conditions": np.array(self._conditions),
            "tokens": np.array([] if tokens is None else tokens, dtype=np.int64),
            "limit": np.array(encoder.max_length),
        }

    def _queries(self, texts: Sequence[str], model: Lazy[Encoder]) -> np.ndarray:
        import numpy as np

        found = []
        for low in range(0, len(texts), _BLOCK):
            part = texts[low : low + _BLOCK]
            key = digest(part)
            block = self._queries_shelf.load(key)
            if block is None:
                vectors = model.get().encode_queries(part, instruction=self._reading.instruction)
                block = {"vectors": vectors}
                self._queries_shelf.save(key, block)
            found.append(block["vectors"])
        return np.concatenate(found)

    def _costs(self, index: Index, texts: Sequence[str], top_k: int, model: Lazy[Encoder], memory: Memory) -> Costs:
        """Return what was measured, now or in an earlier run under the same conditions; None for what was not."""
        import numpy as np

        key = f"costs-{digest([self._conditions, str(top_k), *index.keys, *texts])}"
        kept = self._queries_shelf.load(key)
        earlier = kept is not None or (index.timed > 0 and index.computed < len(index.keys))
        if kept is None:
            peak = memory.peak if index.computed == len(index.keys) else None  # of indexing and searching, not of less
            kept = {"ms": np.array(self._latency(index, texts, top_k, model)), "memory": np.array(peak or 0)}
            self._queries_shelf.save(key, kept)
        return Costs(
            passages_per_second=index.timed / index.seconds if index.seconds else None,
            ms_per_query=float(kept["ms"]),
            index_bytes=index.bytes,
            memory_bytes=int(kept["memory"]) or None,
            earlier=earlier,
        )

    def _latency(self, index: Index, texts: Sequence[str], top_k: int, model: Lazy[Encoder]) -> float:
        """Return milliseconds from one question alone to its ranking, over vectors in memory, as a server has them."""
        encoder, sample = model.get(), texts[:SAMPLE]
        held = index.held(_HELD)
        passages = sum(len(counts) for _, counts in held)

        def encode(text: str) -> np.ndarray:
            return encoder.encode_queries([text], instruction=self._reading.instruction)

        def find(vector: np.ndarray) -> object:
            return search(vector, lambda: held, index.ids[:passages], top_k)

        vectors = encoder.encode_queries(sample, instruction=self._reading.instruction)
        searched = median_ms(find, [vectors[row : row + 1] for row in range(len(sample))]) * len(index.ids) / passages
        return median_ms(encode, sample) + searched


def _chunks(passage: Passage, title: bool, size: int) -> list[str]:
    """Return the chunks of a passage, each below the title; the whole of one without anything to read."""
    spans = sentence_spans(passage.text, size) or [(0, len(passage.text))]
    return [Passage(passage.text[low:high], passage.title).joined(title=title) for low, high in spans]


def _late_chunks(encoder: Encoder, texts: Sequence[str], size: int) -> tuple[np.ndarray, list[int]]:
    import numpy as np

    def encode(text: str) -> np.ndarray:
        spans = sentence_spans(text, size)
        return encoder.encode_chunks(text, spans) if spans else encoder.encode_documents([text])

    with ThreadPoolExecutor(_CALLERS) as pool:
        found = list(pool.map(encode, texts))
    return np.concatenate(found), [len(vectors) for vectors in found]
