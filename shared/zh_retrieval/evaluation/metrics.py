"""Rankings to values for each query, by ir-measures (which asks pytrec_eval: trec_eval's own code)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.evaluation.results import Ranking

MEASURES = ("nDCG@10", "R@10", "R@100", "RR@10", "AP", "Success@1", "Success@5", "Success@10")
"""What is measured unless other measures are named. nDCG has trec_eval's linear gain; AP sees `top_k` passages."""
MAIN = "nDCG@10"


def parse(names: Sequence[str]) -> list[Any]:
    """Return ir-measures' objects for names such as "nDCG@10".

    Raises:
        ConfigError: A name is unknown.
        MissingExtraError: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError('ir-measures is not installed. Run: pip install "zh-retrieval[eval]"') from error
    found = []
    for name in names:
        try:
            found.append(ir_measures.parse_measure(name))
        except (ValueError, NameError, SyntaxError) as error:
            raise ConfigError(
                f"There is no measure {name!r} ({error}). Use names of ir-measures: {', '.join(MEASURES)}, P@5, ..."
            ) from None
    return found


def per_query(
    qrels: Mapping[str, Mapping[str, int]],
    query_ids: Sequence[str],
    rankings: Mapping[str, Ranking],
    measures: Sequence[str] = MEASURES,
) -> dict[str, dict[str, float]]:
    """Return measure -> query id -> value, for each of `query_ids`; a query without a ranking has 0.

    The order of a ranking counts, not its scores: programs break ties in different ways, and it is sorted already.
    """
    import ir_measures

    parsed = dict(zip(parse(measures), measures, strict=True))
    judged = {query: dict(qrels[query]) for query in query_ids}
    run = {
        query: {name: float(-place) for place, name in enumerate(rankings[query].ids)}
        for query in query_ids
        if query in rankings and rankings[query].ids
    }
    values: dict[str, dict[str, float]] = {name: dict.fromkeys(query_ids, 0.0) for name in measures}
    if run:
        for metric in ir_measures.iter_calc(list(parsed), judged, run):
            values[parsed[metric.measure]][metric.query_id] = float(metric.value)
    return values
