"""BM25, the line to beat: no model, no GPU, milliseconds."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.evaluation.results import Costs, Ranking, Run
from zh_retrieval.evaluation.systems.base import System, Task
from zh_retrieval.evaluation.systems.measuring import Memory, median_ms
from zh_retrieval.evaluation.systems.search import order

NAME = "bm25"
_SAMPLE = 20  # queries that are searched one by one, for the latency
# Han, Kana and Hangul: scripts without spaces, or with few
_CJK = (
    "\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff\U00020000-\U0003ffff"
)
_RUN = re.compile(f"[{_CJK}]+|[^\\W_{_CJK}]+")


def terms(text: str) -> list[str]:
    """Return the words of Latin and other spaced scripts, and the overlapping pairs of characters of Chinese.

    No dictionary: "绿茶水温" is 绿茶, 茶水, 水温. A single Chinese character is a term of its own.
    """
    found = []
    for run in _RUN.findall(text.casefold()):
        if len(run) > 1 and re.match(f"[{_CJK}]", run):
            found += [run[start : start + 2] for start in range(len(run) - 1)]
        else:
            found.append(run)
    return found


class BM25(System):
    """BM25 over pairs of Chinese characters, by bm25s, in Lucene's variant and with Lucene's parameters."""

    def __init__(self, name: str = NAME, *, title: bool = True, k1: float = 1.2, b: float = 0.75) -> None:
        """Take the parameters.

        Raises:
            MissingExtraError: bm25s is not installed.
            ConfigError: A parameter makes no sense.
        """
        try:
            import bm25s
        except ImportError as error:
            raise MissingExtraError('bm25s is not installed. Run: pip install "zh-retrieval[eval]"') from error
        if k1 < 0 or not 0 <= b <= 1:
            raise ConfigError(f"BM25 with k1={k1}, b={b}: expected k1 of at least 0 and b between 0 and 1.")
        self.name = name
        self.settings: Mapping[str, Any] = {"title": title, "k1": k1, "b": b, "terms": "character bigrams"}
        self._bm25s, self._title, self._k1, self._b = bm25s, title, k1, b

    def search(self, task: Task) -> Run:
        """Return the passages that share a term with the query; a query that shares none has an empty ranking."""
        memory = Memory()
        corpus = task.dataset.corpus
        start = time.perf_counter()
        vocabulary: dict[str, int] = {}
        numbers = [
            [vocabulary.setdefault(term, len(vocabulary)) for term in terms(passage.joined(title=self._title))]
            for passage in corpus.values()
        ]
        if not vocabulary:
            return Run({query: Ranking((), ()) for query in task.query_ids})
        model = self._bm25s.BM25(method="lucene", k1=self._k1, b=self._b)
        model.index((numbers, vocabulary), show_progress=False, create_empty_token=False)
        seconds = time.perf_counter() - start
        ids, texts = list(corpus), [task.dataset.queries[query] for query in task.query_ids]

        def find(text: str) -> Ranking:
            return _ranking(model, ids, [vocabulary[term] for term in terms(text) if term in vocabulary], task.top_k)

        rankings = {query: find(text) for query, text in zip(task.query_ids, texts, strict=True)}
        memory.look()
        size = sum(part.nbytes for part in model.scores.values() if hasattr(part, "nbytes"))
        costs = Costs(len(ids) / seconds, median_ms(find, texts[:_SAMPLE]), size, memory.peak)
        return Run(rankings, costs)


def _ranking(model: Any, ids: Sequence[str], numbers: Sequence[int], top_k: int) -> Ranking:
    import numpy as np

    if not numbers:
        return Ranking((), ())
    scores = np.asarray(model.get_scores_from_ids(list(numbers)), dtype=np.float32)
    (found,) = np.nonzero(scores > 0)
    if len(found) > top_k:
        least = np.partition(scores[found], -top_k)[-top_k]
        found = found[scores[found] >= least]  # with all that tie with the last one
    places: list[int] = found.tolist()
    names = [ids[place] for place in places]
    by_name = dict(zip(names, scores[found].tolist(), strict=True))
    best = order(names, list(by_name.values()))[:top_k]
    return Ranking(tuple(best), tuple(by_name[name] for name in best))
