"""What is wrong with data and rankings, counted and named: a mean would hide it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from zh_retrieval.evaluation.dataset import Dataset, Fault
from zh_retrieval.evaluation.faults.duplicates import Twins, difference, equal_passages
from zh_retrieval.evaluation.faults.kinds import EXAMPLES, TOP, fault
from zh_retrieval.evaluation.run import Ranking
from zh_retrieval.script import script_of


def data_faults(dataset: Dataset, twins: Twins) -> Iterator[Fault]:
    """Yield what was found while reading, then what ids, texts and judgements show."""
    yield from dataset.faults
    yield from _judgement_faults(dataset)
    yield from _text_faults(dataset)
    yield from _script_faults(dataset)
    yield from _twin_faults(dataset, twins)


def _twin_faults(dataset: Dataset, twins: Twins) -> Iterator[Fault]:
    pairs = []
    for query, found in twins.items():
        for other, twin in found.items():
            texts = (dataset.corpus[name].text for name in (twin.right, other))
            pairs.append(
                f"{query}: {other} holds {twin.right}" if twin.whole
                else f"{query}: {other} differs from {twin.right}: {difference(*texts)}"
            )  # fmt: skip
    for one in fault("near-duplicates", list(twins), len(dataset.judged)):
        yield replace(one, examples=tuple(pairs[:EXAMPLES]))


def _judgement_faults(dataset: Dataset) -> Iterator[Fault]:
    queries, corpus, qrels = dataset.queries, dataset.corpus, dataset.qrels
    judgements = sum(map(len, qrels.values()))
    lost = [query for query in qrels if query not in queries]
    yield from fault("unknown-query", lost, len(qrels))
    absent = [f"{query}: {name}" for query, grades in qrels.items() for name in grades if name not in corpus]
    yield from fault("unknown-passage", absent, judgements)
    bare = [query for query in queries if not qrels.get(query)]
    yield from fault("query-without-judgement", bare, len(queries))
    hopeless = [q for q in queries if qrels.get(q) and not any(grade > 0 for grade in qrels[q].values())]
    yield from fault("query-without-answer", hopeless, len(queries))
    both = [query for query in queries if query in corpus]
    yield from fault("equal-ids", both, len(queries))


def _text_faults(dataset: Dataset) -> Iterator[Fault]:
    empty = [name for name, text in dataset.queries.items() if not text.strip()]
    yield from fault("empty-query", empty, len(dataset.queries))
    bare = [name for name, passage in dataset.corpus.items() if not passage.text.strip()]
    yield from fault("empty-passage", bare, len(dataset.corpus))
    first: dict[str, str] = {}
    repeated = [
        f"{name} = {first[text]}" for name, text in dataset.queries.items() if first.setdefault(text, name) != name
    ]
    yield from fault("duplicate-query", repeated, len(dataset.queries))
    groups = equal_passages(dataset)
    copies = [f"{name} = {group[0]}" for group in groups for name in group[1:]]
    yield from fault("duplicate-passage", copies, len(dataset.corpus))


def _script_faults(dataset: Dataset) -> Iterator[Fault]:
    """Yield the passages that are in the other Chinese script than most questions that show one."""
    asked = Counter(filter(None, map(script_of, dataset.queries.values())))
    if not asked:
        return
    script = max(asked, key=lambda found: asked[found])
    other = [name for name, passage in dataset.corpus.items() if script_of(passage.text) not in (None, script)]
    yield from fault("other-script", other, len(dataset.corpus))


def run_faults(
    dataset: Dataset, query_ids: Sequence[str], rankings: Mapping[str, Ranking], twins: Twins
) -> Iterator[Fault]:
    """Yield what makes the numbers of one system doubtful."""
    shown = {query: rankings[query].ids[:TOP] if query in rankings else () for query in query_ids}
    unjudged = [f"{q}: {name}" for q, ids in shown.items() for name in ids if name not in dataset.qrels[q]]
    yield from fault("unjudged-top", unjudged, sum(map(len, shown.values())))
    yield from fault("nothing-found", [query for query, ids in shown.items() if not ids], len(query_ids))
    beaten = [f"{query}: {name}" for query, ids in shown.items() for name in _twin_above(ids, dataset, query, twins)]
    yield from fault("twin-above", beaten, len(query_ids))


def cut_faults(cuts: Mapping[str, int], total: int, limit: int, what: str = "passages") -> Iterator[Fault]:
    """Yield what a model does not read: input -> its tokens, of those with more than `limit`."""
    lost = sorted(tokens - limit for tokens in cuts.values()) or [0]
    longest = sorted(cuts, key=lambda name: (-cuts[name], name))
    examples = [f"{name} ({cuts[name]} tokens)" for name in longest]
    yield from fault("cut", examples, total, what=what, limit=limit, half=lost[len(lost) // 2], most=lost[-1])


def _twin_above(ids: Sequence[str], dataset: Dataset, query: str, twins: Twins) -> Iterator[str]:
    """Yield the first passage that holds a right answer's text, if no right answer is above it."""
    for name in ids:
        if dataset.qrels[query].get(name, 0) > 0:
            return
        twin = twins.get(query, {}).get(name)
        if twin is not None and twin.whole:
            yield name
            return
