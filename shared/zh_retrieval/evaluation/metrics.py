"""Rankings to values for each query, by ir-measures (which asks pytrec_eval: trec_eval's own code)."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from zh_retrieval.errors import ConfigError, MissingExtraError
from zh_retrieval.evaluation.run import Ranking

MEASURES = ("nDCG@10", "R@10", "R@100", "RR@10", "AP", "Success@1", "Success@5", "Success@10")
"""What is measured unless other measures are named. nDCG has trec_eval's linear gain; AP sees `top_k` passages."""
MAIN = "nDCG@10"
_DEEPEST = 100  # passages that AP of the list above is understood to see
_LONGEST = 60  # characters of a name that a message repeats


def standard(top_k: int) -> tuple[str, ...]:
    """Return the measures of `MEASURES` that rankings of `top_k` passages can have, the main one first.

    What would look deeper is left out; nDCG and AP of short rankings say how deep they look: nDCG@5, AP@5.
    """
    main = f"nDCG@{min(10, top_k)}"
    deep = "AP" if top_k >= _DEEPEST else f"AP@{top_k}"
    kept = (deep if name == "AP" else name for name in MEASURES[1:])
    return (main, *(name for name in kept if (_cutoff(parse(name)) or 0) <= top_k))


def parse(name: str) -> Any:
    """Return ir-measures' object for a name such as "nDCG@10"; its str is the one name of all spellings.

    Raises:
        ConfigError: The name is unknown, or a parameter is missing or wrong.
        MissingExtraError: ir-measures is not installed.
    """
    try:
        import ir_measures
    except ImportError as error:
        raise MissingExtraError('ir-measures is not installed. Run: pip install "zh-retrieval[eval]"') from error
    try:
        measure: Any = ir_measures.parse_measure(name)
        measure.validate_params()
        str(measure)  # an unknown parameter has no default to be compared with
    except (ValueError, NameError, SyntaxError, TypeError, AssertionError, KeyError, RecursionError) as error:
        close = next((known for known in MEASURES if known.lower() == name.lower()), None)
        hint = f"Did you mean {close}?" if close else "A cutoff stands behind @, as in P@5."
        raise ConfigError(
            f"There is no measure {_shown(name)} ({_why(error)}). {hint} Use names of ir-measures: "
            f"{', '.join(MEASURES)}, P@5, ..."
        ) from None
    cutoff = _cutoff(measure)
    if cutoff is not None and cutoff < 1:  # trec_eval ends the process
        raise ConfigError(f"The measure {_shown(name)} has a cutoff of {cutoff}. Expected at least 1, as in P@5.")
    return measure


def names_of(measures: Iterable[str], top_k: int) -> list[str]:
    """Return the one name of each measure, each once, however it is spelled: MAP and AP are one.

    Raises:
        ConfigError: A measure is unknown, looks deeper than `top_k` passages, or counts instead of averaging.
    """
    found = []
    for name in measures:
        measure = parse(name)
        if (_cutoff(measure) or 0) > top_k:
            raise ConfigError(
                f"The measure {_shown(name)} looks at {_cutoff(measure)} passages of a ranking, and top_k={top_k} "
                f"keeps {top_k}. Raise top_k, or name a measure of at most {top_k}."
            )
        if type(measure.aggregator()).__name__ != "MeanAgg":
            raise ConfigError(f"The measure {_shown(name)} counts over all questions. Name one that has a mean: P@5.")
        found.append(str(measure))
    return list(dict.fromkeys(found))


def check_computable(measures: Sequence[str], qrels: Mapping[str, Mapping[str, int]], query_ids: Sequence[str]) -> None:
    """Compute the measures once on the judgements themselves: what a provider of ir-measures refuses shows now.

    Raises:
        ConfigError: A measure needs a package or a program that is not here, or ids of another form.
    """
    import ir_measures

    judged = {query: dict(qrels[query]) for query in query_ids}
    run = {query: {name: float(grade) for name, grade in grades.items()} for query, grades in judged.items()}
    for name in measures:
        try:
            ir_measures.calc_aggregate([parse(name)], judged, run)
        except ConfigError:
            raise
        except Exception as error:  # programs and packages of others raise what they like
            raise ConfigError(
                f"The measure {_shown(name)} cannot be computed here ({_why(error)}). Leave it out, or install what "
                "it needs."
            ) from error


def per_query(
    qrels: Mapping[str, Mapping[str, int]],
    query_ids: Sequence[str],
    rankings: Mapping[str, Ranking],
    measures: Sequence[str] = MEASURES,
) -> dict[str, dict[str, float]]:
    """Return measure -> query id -> value, for each of `query_ids`; a query without a ranking has 0.

    Measures go by the names they are given in. The order of a ranking counts, not its scores: programs break ties in
    different ways, and it is sorted already.
    """
    import ir_measures

    parsed = {name: parse(name) for name in measures}
    judged = {query: dict(qrels[query]) for query in query_ids}
    run = {
        query: {name: float(-place) for place, name in enumerate(rankings[query].ids)}
        for query in query_ids
        if query in rankings and rankings[query].ids
    }
    values: dict[Any, dict[str, float]] = {measure: dict.fromkeys(query_ids, 0.0) for measure in parsed.values()}
    if run:
        for metric in ir_measures.iter_calc(list(values), judged, run):
            values[metric.measure][metric.query_id] = float(metric.value)
    return {name: dict(values[measure]) for name, measure in parsed.items()}


def _cutoff(measure: Any) -> int | None:
    found = measure.params.get("cutoff")
    return found if isinstance(found, int) else None


def _shown(name: str) -> str:
    return repr(name if len(name) <= _LONGEST else name[:_LONGEST] + "…")


def _why(error: Exception) -> str:
    """Return what is wrong in one line: ir-measures shows the address of an object where a parameter is missing."""
    said = " ".join((str(error) or repr(error)).split())
    if isinstance(error, AssertionError) and "<object" in said:
        return f"it needs {said.removeprefix('invalid param ').partition('=')[0]}"
    return said if len(said) <= 200 else said[:200] + "…"
