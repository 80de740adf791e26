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
from zh_retrieval.evaluation.evaluate import evaluate_systems
from zh_retrieval.evaluation.faults.kinds import fault
from zh_retrieval.evaluation.passages import Identify, Passages
from zh_retrieval.evaluation.reading.read import read_dataset
from zh_retrieval.evaluation.results import Evaluation
from zh_retrieval.evaluation.run import Costs, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task

_DEEP = 10  # passages that the main measure looks at
_LONGEST = 300  # characters of an error that is shown as an example
_TIMED = 10  # queries that are asked one at a time first: how long one takes
_CONTEXT = ("context", "documents", "source_documents", "docs", "context_documents")
"""Where chains that give a dict have their documents."""


def evaluate(
    retriever: Any, data: Dataset | str | Path, *, name: str = "retriever", concurrency: int = 8,
    timeout: float | None = None, identify: Identify | None = None, top_k: int = 100, seed: int = 0,
) -> Evaluation:  # fmt: skip
    """Return what a chain finds for every question, and how good that is.

    To compare several chains, or a chain with models, give `Retrieved` objects to `evaluate_systems`.

    Args:
        retriever: A LangChain retriever (or anything with `ainvoke` that gives documents, or a dict with them, as
            retrieval chains do), a LlamaIndex retriever or query engine. How many passages it finds is its own setting.
        data: A dataset, or the folder or file of one.
        name: What tables call it.
        concurrency: How many queries are asked at once, at most.
        timeout: Seconds after which a query has failed; None waits.
        identify: Which passage a document is of. By default what names a passage that holds the document's text: its
            metadata "doc_id", "id", "source", ..., the id of the document a node is a chunk of, its own id, or the text
            itself; else the first of these that names a passage. So a store's row number that looks like an id does
            not win. Several chunks of one passage count as one, where the first is.
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

    scored = 0

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
        passages = Passages(task.dataset, self._identify)
        rankings, unknown, doubtful = {}, [], []
        for query in task.query_ids:
            ids = []
            for place, document in enumerate(answers.get(query, ()), 1):
                found, sure = passages.of(document)
                if found is None:
                    unknown.append(f"{query}: rank {place}")
                elif not sure:
                    doubtful.append(f"{query}: {found}")
                ids.append(found or f"unknown result {place}")
            unique = list(dict.fromkeys(ids))[: task.top_k]
            rankings[query] = Ranking(tuple(unique), tuple(float(-place) for place in range(len(unique))))
        failed = [f"{query}: {failures[query]!r}"[:_LONGEST] for query in task.query_ids if query in failures]
        results = sum(map(len, answers.values()))
        deepest = max(len(found.ids) for found in rankings.values())
        wanted = min(task.top_k, _DEEP, len(task.dataset.corpus))
        short = list(task.query_ids) if deepest < wanted else []
        faults = (
            *fault("query-failed", failed, len(task.query_ids)),
            *fault("unknown-result", unknown, results),
            *fault("doubtful-result", doubtful, results),
            *fault("short-rankings", short, len(task.query_ids), most=deepest, wanted=wanted),
        )
        return Run(rankings, Costs(ms_per_query=ms), faults)


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
        return _documents(await ask(question))

    return documents


def _documents(found: Any) -> list[Any]:
    """Return the documents that a chain gave, alone or in a dict beside its answer."""
    if isinstance(found, Mapping):
        lists = {key: value for key, value in found.items() if isinstance(value, (list, tuple))}
        known = [key for key in _CONTEXT if key in lists] or [
            key for key, value in lists.items() if value and all(_is_document(entry) for entry in value)
        ]
        if not known:
            raise ConfigError(
                f"The chain gave a dict of {', '.join(map(repr, list(found)[:8])) or 'nothing'}. Expected documents "
                f"in one of {', '.join(_CONTEXT)}, or a list of documents or nodes."
            )
        found = lists[known[0]]
    if not isinstance(found, (list, tuple)):
        raise ConfigError(f"The chain gave {type(found).__name__}. Expected a list of documents or nodes.")
    return list(found)


def _is_document(entry: Any) -> bool:
    return hasattr(entry, "page_content") or hasattr(entry, "node") or hasattr(entry, "text")
