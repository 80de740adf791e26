"""An embedding model and exact search."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from zh_retrieval.base import Encoder
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.evaluation.dataset import Passage
from zh_retrieval.evaluation.faults import cut_faults
from zh_retrieval.evaluation.results import Costs, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.measuring import Memory, median_ms
from zh_retrieval.evaluation.systems.search import Block, search
from zh_retrieval.evaluation.systems.store import Shelf, Store, digest
from zh_retrieval.progress import Bar

if TYPE_CHECKING:
    import numpy as np

_BLOCK = 1024  # passages or queries that are encoded and kept at a time: what a killed run loses at most
_SAMPLE = 20  # queries that are encoded one by one, for the latency
_CALLERS = 16  # documents under way at once in late chunking; they share forward passes


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
    ) -> None:
        """Take a model.

        Args:
            name: How tables call it.
            load: Opens the encoder.
            recipe: All that its vectors depend on; vectors of equal recipes and texts are computed once.
            store: Where vectors are kept.
            reading: How it is given questions and passages.
            settings: For the report.
        """
        self.name = name
        self.settings = dict(settings or {})
        self._load, self._recipe, self._store = load, recipe, store
        self._reading = reading
        documents = {"title": reading.title, "chunk": reading.chunk, "late": reading.late}
        self._shelf = store.shelf("vectors", {**recipe, "as": "document", **documents})
        self._queries_shelf = store.shelf("vectors", {**recipe, "as": "query", "instruction": reading.instruction})

    def chunked(self, size: int | None) -> Dense:
        """Return the same model with a vector for every `size` characters of a passage (None: one a passage)."""
        reading = replace(self._reading, chunk=size)
        name = f"{self.name}, chunks of {size}" if size else f"{self.name}, whole passages"
        return Dense(name, self._load, self._recipe, self._store, reading=reading, settings=self.settings)

    def search(self, task: Task) -> Run:
        """Return the passages of the highest inner product; of a passage in chunks the best chunk counts."""
        memory = Memory()
        with ExitStack() as stack:
            model = _Lazy(self._load, stack)
            index = self._index(task, model, memory)
            texts = [task.dataset.queries[query] for query in task.query_ids]
            queries = self._queries(texts, model)
            with Bar(task.show_progress, desc=f"{self.name}: search", total=len(index.ids), unit="passage") as bar:
                start = time.perf_counter()
                found = search(queries, index.blocks, index.ids, task.top_k, bar.advance)
                memory.look()
                searched = (time.perf_counter() - start) * 1000 / max(1, len(queries))
            costs = self._costs(index, texts, searched, model, memory)
        faults = tuple(cut_faults(index.cuts, len(index.ids), index.limit))
        return Run(dict(zip(task.query_ids, found, strict=True)), costs, faults)

    def _index(self, task: Task, model: _Lazy, memory: Memory) -> _Index:
        ids = list(task.dataset.corpus)
        index = _Index(ids, self._shelf)
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
            "tokens": np.array([] if tokens is None else tokens, dtype=np.int64),
            "limit": np.array(encoder.max_length),
        }

    def _queries(self, texts: Sequence[str], model: _Lazy) -> np.ndarray:
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

    def _costs(self, index: _Index, texts: Sequence[str], searched: float, model: _Lazy, memory: Memory) -> Costs:
        """Return what was measured when this was first computed: a later run from the cache measures nothing new."""
        import numpy as np

        key = f"costs-{digest([*index.keys, *texts])}"
        kept = self._queries_shelf.load(key)
        if kept is None:

            def encode(text: str) -> None:
                model.get().encode_queries([text], instruction=self._reading.instruction)

            kept = {"ms": np.array(median_ms(encode, texts[:_SAMPLE]) + searched), "memory": np.array(memory.peak or 0)}
            self._queries_shelf.save(key, kept)
        return Costs(
            passages_per_second=len(index.ids) / index.seconds if index.seconds else None,
            ms_per_query=float(kept["ms"]),
            index_bytes=index.bytes,
            memory_bytes=int(kept["memory"]) or None,
        )


class _Lazy:
    """A model that is opened when it is first needed."""

    def __init__(self, load: Callable[[], Encoder], stack: ExitStack) -> None:
        self._load = load
        self._stack = stack
        self._model: Encoder | None = None

    def get(self) -> Encoder:
        if self._model is None:
            self._model = self._stack.enter_context(self._load())
        return self._model


class _Index:
    """The blocks of a corpus and what is known of them.

    Attributes:
        ids: Of all passages.
        keys: Names of the blocks.
        seconds: What they took to compute.
        bytes: Size of the vectors.
        cuts: Passage -> tokens, of those longer than the model reads.
        limit: Tokens that the model reads.
    """

    def __init__(self, ids: Sequence[str], shelf: Shelf) -> None:
        self.ids = ids
        self.keys: list[str] = []
        self.seconds = 0.0
        self.bytes = 0
        self.cuts: dict[str, int] = {}
        self.limit = 0
        self._shelf = shelf

    def add(self, key: str, names: Sequence[str], block: Mapping[str, np.ndarray]) -> None:
        self.keys.append(key)
        self.seconds += float(block["seconds"])
        self.bytes += block["vectors"].nbytes
        self.limit = int(block["limit"])
        for name, tokens in zip(names, block["tokens"].tolist(), strict=False):
            if tokens > self.limit:
                self.cuts[name] = tokens

    def blocks(self) -> Iterator[Block]:
        for key in self.keys:
            block = self._shelf.load(key)
            if block is None:
                raise FileNotFoundError(f"A block of vectors went away while it was searched: {key}")
            yield block["vectors"], block["counts"]


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
