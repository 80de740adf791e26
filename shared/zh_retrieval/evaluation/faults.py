"""What is wrong with data and rankings, counted and named: a mean would hide it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from zh_retrieval.evaluation.dataset import Dataset, Fault, Where
from zh_retrieval.evaluation.duplicates import equal_passages
from zh_retrieval.evaluation.results import Ranking

EXAMPLES = 5
TOP = 10
"""How deep rankings are looked at for unjudged passages and twins."""

Twins = Mapping[str, Mapping[str, str]]


def fault(kind: str, where: Where, found: Sequence[str], total: int, message: str) -> Iterator[Fault]:
    """Yield a fault with the first examples of what was found, if anything was."""
    if found:
        yield Fault(kind, where, len(found), total, tuple(found[:EXAMPLES]), message)


def data_faults(dataset: Dataset, twins: Twins) -> Iterator[Fault]:
    """Yield what was found while reading, then what ids, texts and judgements show."""
    yield from dataset.faults
    yield from _judgement_faults(dataset)
    yield from _text_faults(dataset)
    pairs = [f"{query}: {other} holds {answer}" for query, found in twins.items() for other, answer in found.items()]
    if pairs:
        yield Fault(
            "near-duplicates", "corpus", len(twins), len(dataset.judged), tuple(pairs[:EXAMPLES]),
            "queries have passages that hold at least 80 % of a right passage's text and are not judged right: a "
            "system that finds them is counted wrong. Judge them, or remove them.",
        )  # fmt: skip


def _judgement_faults(dataset: Dataset) -> Iterator[Fault]:
    queries, corpus, qrels = dataset.queries, dataset.corpus, dataset.qrels
    judgements = sum(map(len, qrels.values()))
    lost = [query for query in qrels if query not in queries]
    yield from fault(
        "unknown-query", "qrels", lost, len(qrels),
        "judged queries are not in the queries: they cannot be asked and are left out of every mean.",
    )  # fmt: skip
    absent = [f"{query}: {name}" for query, grades in qrels.items() for name in grades if name not in corpus]
    yield from fault(
        "unknown-passage", "qrels", absent, judgements,
        "judgements are of passages that the corpus lacks: where they are right answers nobody can find them, and "
        "recall and nDCG cannot reach 1.",
    )  # fmt: skip
    bare = [query for query in queries if not qrels.get(query)]
    yield from fault(
        "query-without-judgement", "queries", bare, len(queries),
        "queries have no judgement: they are not asked and are left out of every mean.",
    )  # fmt: skip
    hopeless = [q for q in queries if qrels.get(q) and not any(grade > 0 for grade in qrels[q].values())]
    yield from fault(
        "query-without-answer", "queries", hopeless, len(queries),
        "queries have judgements and no right answer among them: they are left out of every mean.",
    )  # fmt: skip
    both = [query for query in queries if query in corpus]
    yield from fault(
        "equal-ids", "queries", both, len(queries),
        "ids are those of a query and of a passage: BEIR's tools delete such results, here they count.",
    )  # fmt: skip


def _text_faults(dataset: Dataset) -> Iterator[Fault]:
    yield from fault(
        "empty-query", "queries", [name for name, text in dataset.queries.items() if not text.strip()],
        len(dataset.queries), "queries are empty: what is found for them is chance.",
    )  # fmt: skip
    yield from fault(
        "empty-passage", "corpus", [name for name, passage in dataset.corpus.items() if not passage.text.strip()],
        len(dataset.corpus), "passages have no text: they can be found by their title at most.",
    )  # fmt: skip
    first: dict[str, str] = {}
    repeated = [
        f"{name} = {first[text]}" for name, text in dataset.queries.items() if first.setdefault(text, name) != name
    ]
    yield from fault(
        "duplicate-query", "queries", repeated, len(dataset.queries),
        "queries are asked twice: they count twice in every mean.",
    )  # fmt: skip
    groups = equal_passages(dataset)
    copies = [f"{name} = {group[0]}" for group in groups for name in group[1:]]
    yield from fault(
        "duplicate-passage", "corpus", copies, len(dataset.corpus),
        "passages have the text of an earlier one: which of them is found first is chance.",
    )  # fmt: skip


def run_faults(
    dataset: Dataset, query_ids: Sequence[str], rankings: Mapping[str, Ranking], twins: Twins
) -> Iterator[Fault]:
    """Yield what makes the numbers of one system doubtful."""
    shown = {query: rankings[query].ids[:TOP] if query in rankings else () for query in query_ids}
    unjudged = [f"{q}: {name}" for q, ids in shown.items() for name in ids if name not in dataset.qrels[q]]
    yield from fault(
        "unjudged-top", "system", unjudged, sum(map(len, shown.values())),
        f"passages in the top {TOP} are unjudged and count as wrong: a right one among them is not seen.",
    )  # fmt: skip
    yield from fault(
        "nothing-found", "system", [query for query, ids in shown.items() if not ids], len(query_ids),
        "queries found nothing: they count 0.",
    )  # fmt: skip
    beaten = [f"{query}: {name}" for query, ids in shown.items() for name in _twin_above(ids, dataset, query, twins)]
    yield from fault(
        "twin-above", "system", beaten, len(query_ids),
        "queries have a passage above every right one that holds the same text and counts as wrong.",
    )  # fmt: skip


def cut_faults(cuts: Mapping[str, int], total: int, limit: int, what: str = "passages") -> Iterator[Fault]:
    """Yield what a model does not read: input -> its tokens, of those with more than `limit`."""
    if not cuts:
        return
    lost = sorted(tokens - limit for tokens in cuts.values())
    longest = sorted(cuts, key=lambda name: (-cuts[name], name))[:EXAMPLES]
    examples = tuple(f"{name} ({cuts[name]} tokens)" for name in longest)
    message = (
        f"{what} are longer than the {limit} tokens that the model reads: half of them lose {lost[len(lost) // 2]} "
        f"tokens or more, the longest {lost[-1]}. Split them into chunks, or raise max_length if the model can."
    )
    yield Fault("cut", "system", len(cuts), total, examples, message)


def _twin_above(ids: Sequence[str], dataset: Dataset, query: str, twins: Twins) -> Iterator[str]:
    """Yield the first passage that holds a right answer's text, if no right answer is above it."""
    for name in ids:
        if dataset.qrels[query].get(name, 0) > 0:
            return
        if name in twins.get(query, {}):
            yield name
            return
