"""A whole chain of a framework, measured as a model is: what LangChain and LlamaIndex retrieve.

No framework is imported: LangChain's retrievers are asked by `ainvoke`, LlamaIndex's by `aretrieve`, its query engines
by `aquery`, whose `source_nodes` count.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median
from typing import Any

from zh_retrieval import checks
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Dataset
from zh_retrieval.evaluation.duplicates import normalized
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.faults import fault
from zh_retrieval.evaluation.reading.read import read_dataset
from zh_retrieval.evaluation.results import Costs, Evaluation, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task

Identify = Callable[[Any], str | None]
"""A document or node of the framework -> the id of its passage in the corpus; None if it is of none."""
_TIMED = 10  # queries that are asked one at a time first: how long one takes
_FIELDS = ("id", "_id", "doc_id", "corpus_id", "passage_id", "source")


def evaluate(
    retriever: Any, data: Dataset | str | Path, *, name: str = "retriever", concurrency: int = 8,
    timeout: float | None = None, identify: Identify | None = None, top_k: int = 100, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Return what a chain finds for every question, and how good that is.

    To compare several chains, or a chain with models, give `Retrieved` objects to `evaluate_systems`.

    Args:
        retriever: A LangChain retriever (or anything with `ainvoke` that gives documents), a LlamaIndex retriever or
            query engine. How many passages it finds is its own setting.
        data: A dataset, or the folder or file of one.
        name: What tables call it.
        concurrency: How many queries are asked at once, at most.
        timeout: Seconds after which a query has failed; None waits.
        identify: Which passage a document is of. By default its id, its metadata "id", "doc_id", "source", ..., for a
            node also the id of the document it is a chunk of, else its text, where that is a passage of the corpus.
            Several chunks of one passage count as one, where the first is.
        top_k: How many passages count at most.
        seed: Of all resampling.

    Raises:
        ConfigError: It is no retriever, or an option makes no sense.
        InputError: Every query failed, or no query has a right answer.
    """
    system = Retrieved(retriever, name=name, concurrency=concurrency, timeout=timeout, identify=identify)
    return evaluate_systems(_dataset(data), [system], top_k=top_k, seed=seed)


async def aevaluate(
    retriever: Any, data: Dataset | str | Path, *, name: str = "retriever", concurrency: int = 8,
    timeout: float | None = None, identify: Identify | None = None, top_k: int = 100, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Return what `evaluate` returns; the chain is asked on the running event loop, where its clients live."""
    system = Retrieved(retriever, name=name, concurrency=concurrency, timeout=timeout, identify=identify)
    dataset = await asyncio.to_thread(_dataset, data)
    await system.ask(Task(dataset, top_k))
    return await asyncio.to_thread(evaluate_systems, dataset, [system], top_k=top_k, seed=seed)


def _dataset(data: Dataset | str | Path) -> Dataset:
    return data if isinstance(data, Dataset) else read_dataset(data)


class Retrieved(System):
    """A retriever or query engine of a framework as a system."""

    def __init__(
        self, retriever: Any, *, name: str = "retriever", concurrency: int = 8, timeout: float | None = None,
        identify: Identify | None = None,
    ) -> None:  # fmt: skip
        """Take what is asked and how, see `evaluate`."""
        checks.whole_number("concurrency", concurrency)
        if timeout is not None and not timeout > 0:
            raise ConfigError(f"timeout={timeout!r}: expected seconds above 0, or None.")
        self._ask = _asker(retriever)
        self.name = name
        self.settings: Mapping[str, Any] = {"class": type(retriever).__name__, "concurrency": concurrency}
        self._concurrency, self._timeout, self._identify = concurrency, timeout, identify
        self._found: tuple[Dataset, int, Run] | None = None

    def search(self, task: Task) -> Run:
        """Return what the retriever finds; inside a running event loop it is asked on another, in a thread."""
        if self._found is not None and self._found[0] is task.dataset and self._found[1] == task.top_k:
            return self._found[2]
        with ThreadPoolExecutor(1) as thread:
            return thread.submit(lambda: asyncio.run(self.ask(task))).result()

    async def ask(self, task: Task) -> Run:
        """Return what the retriever finds, asked on the running event loop, and keep it.

        The first ten queries are asked one after the other, and timed; the rest at once, up to the bound. A query that
        fails has an empty ranking, and the fault "query-failed" names it with its error.

        Raises:
            InputError: Every query failed: the first error is its cause.
        """
        answers: dict[str, list[Any]] = {}
        failures: dict[str, Exception] = {}
        times: list[float] = []
        bound = asyncio.Semaphore(self._concurrency)

        async def one(query: str) -> None:
            async with bound:
                start = time.perf_counter()
                try:
                    answers[query] = await asyncio.wait_for(self._ask(task.dataset.queries[query]), self._timeout)
                    times.append((time.perf_counter() - start) * 1000)
                except Exception as error:  # whatever a chain raises: it is named, and the others are asked
                    failures[query] = error

        for query in task.query_ids[:_TIMED]:
            await one(query)
        alone = median(times) if times else None
        await asyncio.gather(*map(one, task.query_ids[_TIMED:]))
        if failures and not answers:
            first = next(iter(failures.values()))
            raise InputError(f"All {len(failures)} queries failed, the first with {first!r}.") from first
        run = self._run(task, answers, failures, alone)
        self._found = (task.dataset, task.top_k, run)
        return run

    def _run(
        self, task: Task, answers: Mapping[str, Sequence[Any]], failures: Mapping[str, Exception], ms: float | None
    ) -> Run:
        passages = _Passages(task.dataset, self._identify)
        rankings, unknown = {}, []
        for query in task.query_ids:
            ids = []
            for place, document in enumerate(answers.get(query, ()), 1):
                found = passages.of(document)
                if found is None:
                    unknown.append(f"{query}: rank {place}")
                ids.append(found or f"unknown result {place}")
            unique = list(dict.fromkeys(ids))[: task.top_k]
            rankings[query] = Ranking(tuple(unique), tuple(float(-place) for place in range(len(unique))))
        failed = [f"{query}: {failures[query]!r}" for query in task.query_ids if query in failures]
        faults = (
            *fault("query-failed", "system", failed, len(task.query_ids),
                   "queries failed: they count 0, and are not left out of any mean. Mend them and run again."),
            *fault("unknown-result", "system", unknown, sum(map(len, answers.values())),
                   "results are of no passage of the corpus, by id or by text: they count as wrong. Index the same "
                   "corpus with its ids, or say with identify= which passage a result is of."),
        )  # fmt: skip
        return Run(rankings, Costs(ms_per_query=ms), faults)


class _Passages:
    """Which passage a document of a framework is of."""

    def __init__(self, dataset: Dataset, identify: Identify | None) -> None:
        self._corpus, self._identify = dataset.corpus, identify
        self._by_text: dict[str, str] = {}
        for name, passage in dataset.corpus.items():
            for text in (passage.text, passage.joined()):
                if key := normalized(text):
                    self._by_text.setdefault(key, name)

    def of(self, document: Any) -> str | None:
        if self._identify is not None:
            found = self._identify(document)
            return found if found in self._corpus else None
        node = getattr(document, "node", document)  # LlamaIndex wraps a node with its score
        metadata = getattr(node, "metadata", None) or {}
        named = (
            getattr(node, "id", None), getattr(node, "node_id", None), getattr(node, "ref_doc_id", None),
            *(metadata.get(field) for field in _FIELDS),
        )  # fmt: skip
        by_id = next((str(name) for name in named if name is not None and str(name) in self._corpus), None)
        return by_id or self._by_text.get(normalized(_text(node)))


def _text(node: Any) -> str:
    content = getattr(node, "page_content", None)  # LangChain
    content = getattr(node, "text", None) if content is None else content  # LlamaIndex
    return content if isinstance(content, str) else ""


def _asker(retriever: Any) -> Callable[[str], Any]:
    """Return an async function: question -> documents or nodes, best first."""
    if hasattr(retriever, "aquery"):  # before aretrieve: query engines have both, and the whole of it is measured

        async def engine(question: str) -> list[Any]:
            return list((await retriever.aquery(question)).source_nodes)

        return engine
    ask = getattr(retriever, "aretrieve", None) or getattr(retriever, "ainvoke", None)
    if ask is None:
        raise ConfigError(
            f"{type(retriever).__name__} is no retriever. Expected LangChain's (ainvoke), or LlamaIndex's retriever "
            "(aretrieve) or query engine (aquery)."
        )

    async def documents(question: str) -> list[Any]:
        found = await ask(question)
        if not isinstance(found, (list, tuple)):
            raise ConfigError(f"The chain gave {type(found).__name__}. Expected a list of documents or nodes.")
        return list(found)

    return documents
