"""Whether a model on this machine computes what it ought to: published values, and agreement with itself.

`zh-retrieval doctor --selftest` and the tests run the same checks. Axes: N texts or pairs, D vector size.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from zh_retrieval.checkpoint.weight_files import count_parameters, weight_files
from zh_retrieval.loading import load_encoder, load_reranker
from zh_retrieval.local.encoder import LocalEncoder
from zh_retrieval.local.reranker import LocalReranker
from zh_retrieval.local.session import Session
from zh_retrieval.recipes.published import PUBLISHED, Published
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec

_TOPICS = (  # a question, and the passage that answers it; every model tells these apart
    ("怎么冲泡绿茶？", "绿茶用八十度左右的水冲泡，时间一到两分钟，水太烫会发苦。"),
    ("猫一天睡多久？", "成年猫每天要睡十二到十六个小时，幼猫睡得更久。"),
    ("火车票怎么退？", "退火车票可以在车站窗口或者网上办理，开车前越早退，手续费越低。"),
    ("What is the capital of France?", "Paris is the capital and the largest city of France."),
)
_QUERIES = [query for query, _ in _TOPICS]
_DOCUMENTS = ["", *(document for _, document in _TOPICS), "".join(document for _, document in _TOPICS) * 2]
_PAIRS = [(query, document) for query in _QUERIES for document in (*_DOCUMENTS[1:3], _DOCUMENTS[5])]
_LARGE = 2_000_000_000  # parameters from which a second copy, in another dtype, is not loaded
_SIZE_TOLERANCE = 0.01  # unread tensors (poolers) of up to 0.6 % are published with some models


@dataclass(frozen=True, slots=True)
class Tolerance:
    """How far results of one kind of arithmetic may lie from what they ought to be.

    Attributes:
        batching: Largest difference between packed and alone, of a vector's numbers or of a score; vectors of rounded
            arithmetic are compared by `angle` instead.
        angle: Largest 1 - cosine of two vectors that ought to be equal; None compares the numbers.
        component: Largest difference to a number of a published vector.
        score: Largest difference to a published score.
        cosine: Largest difference to a published cosine.
    """

    batching: float
    angle: float | None
    component: float
    score: float
    cosine: float


# bfloat16 keeps 8 bits: a logit of 8 has steps of 0.06, and the layers below add some steps more.
_ROUNDED = Tolerance(batching=0.1, angle=1e-3, component=5e-3, score=0.3, cosine=2e-2)
_TOLERANCES: Mapping[str, Tolerance] = {
    "float32": Tolerance(batching=1e-5, angle=None, component=1e-3, score=0.05, cosine=5e-3),
    "bfloat16": _ROUNDED,
    "float16": _ROUNDED,
}
_INT8 = Tolerance(
    batching=0.5, angle=2e-2, component=2e-2, score=1.0, cosine=5e-2
)  # activations are rounded for each batch


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was checked: what, whether it holds, and the figures."""

    name: str
    passed: bool
    detail: str


def selftest(model: str | ModelSpec, *, published: bool | None = None, **options: Any) -> list[Check]:
    """Load a model as a user would and return every check.

    Nothing is downloaded. Checks with published values run for the recipe's own weights, not for those of `path=`.

    Args:
        model: As for `load_encoder`.
        published: Says whether published values apply; None: unless `path` is given.
        options: Those of `zh_retrieval.options.LoadOptions`.

    Raises:
        DownloadError: The model is not on this machine; the message says what to run.
        ZhRetrievalError: Whatever else `load_encoder` or `load_reranker` raises.
    """
    spec = get_spec(model)
    if published is None:
        published = options.get("path") is None
    found, dtype, checks = _first_copy(spec, published, options)
    if (spec.parameters or 0) < _LARGE and options.get("quantization") is None:
        other = "bfloat16" if dtype == "float32" else "float32"
        with _open(spec, options | {"dtype": other}) as other_model:
            checks.append(_agreement(f"{dtype} agrees with {other}", _results(other_model), found, _ROUNDED))
    return checks


def _first_copy(spec: ModelSpec, published: bool, options: Mapping[str, Any]) -> tuple[np.ndarray, str, list[Check]]:
    """Return the results of the model as it was asked for, its dtype and its checks; its weights are freed."""
    with _open(spec, options) as model:
        tolerance = _INT8 if options.get("quantization") else _TOLERANCES[model.dtype]
        found = _results(model)
        checks = [_shape(model, found, published), _ends(model), _batching(model, found, tolerance)]
        if published:
            checks += [_size(model, spec.parameters)] if spec.parameters else []
            checks.append(_sense(model))
            checks += _published(model, PUBLISHED.get(spec.name, Published()), tolerance)
        return found, model.dtype, checks


def known_values(model: LocalEncoder | LocalReranker, *, quantized: bool) -> list[Check]:
    """Compare a loaded model with what is known of the recipe's own weights: published values, where there are any."""
    tolerance = _INT8 if quantized else _TOLERANCES[model.dtype]
    return list(_published(model, PUBLISHED.get(model.spec.name, Published()), tolerance))


def _open(spec: ModelSpec, options: Mapping[str, Any]) -> LocalEncoder | LocalReranker:
    load: Any = load_encoder if spec.task == "embedding" else load_reranker
    model: LocalEncoder | LocalReranker = load(spec, **{**options, "local_files_only": True, "private": True})
    return model


def _results(model: Session) -> np.ndarray:
    """Return float32 (N, D) of all documents and queries, or (N, 1) of all pairs, computed together."""
    if isinstance(model, LocalEncoder):
        return np.concatenate([model.encode_documents(_DOCUMENTS), model.encode_queries(_QUERIES)])
    assert isinstance(model, LocalReranker)
    return model.score(_PAIRS)[:, None]


def _alone(model: Session) -> Iterator[np.ndarray]:
    if isinstance(model, LocalEncoder):
        yield from (model.encode_documents([text]) for text in _DOCUMENTS)
        yield from (model.encode_queries([text]) for text in _QUERIES)
    elif isinstance(model, LocalReranker):
        yield from (model.score([pair])[:, None] for pair in _PAIRS)


def _shape(model: Session, found: np.ndarray, published: bool) -> Check:
    finite = bool(np.isfinite(found).all())
    if isinstance(model, LocalReranker):
        highest = 0.0 if model.spec.scoring == "query-likelihood" else np.inf
        right = finite and bool((found <= highest).all())
        return Check("scores are finite", right, f"{len(found)} scores, {found.min():.3f} to {found.max():.3f}")
    expected = model.spec.dimension if published else found.shape[1]
    off = float(np.abs(np.linalg.norm(found, axis=1) - 1).max())
    right = finite and found.shape[1] == expected and off < 1e-3
    return Check("vectors are finite and of length 1", right, f"dimension {found.shape[1]}, length off by {off:.1e}")


def _sequences(model: Session, text: str) -> list[int]:
    if isinstance(model, LocalEncoder):
        return list(model._documents([text]).prepare(0, 1)[0].ids)
    assert isinstance(model, LocalReranker)
    return list(model._scoring([("好", text)]).prepare(0, 1)[0].ids)


def _ends(model: Session) -> Check:
    """Check that long input is cut inside, and keeps its special tokens."""
    tokenizer = model._model.tokenizer
    ids = _sequences(model, "天气很好。" * model.max_length)
    most = model.max_length - (1 if model.spec.scoring == "query-likelihood" else 0)  # its last token is not read
    right = len(ids) <= most and _framed(ids, tokenizer.prefix, tokenizer.suffix)
    return Check("long text keeps its special tokens", right, f"{len(ids)} of {model.max_length} tokens")


def _framed(ids: list[int], prefix: tuple[int, ...], suffix: tuple[int, ...]) -> bool:
    return tuple(ids[: len(prefix)]) == prefix and tuple(ids[len(ids) - len(suffix) :]) == suffix


def _batching(model: Session, found: np.ndarray, tolerance: Tolerance) -> Check:
    return _agreement("packed agrees with alone", np.concatenate(list(_alone(model))), found, tolerance)


def _agreement(name: str, expected: np.ndarray, found: np.ndarray, tolerance: Tolerance) -> Check:
    if expected.shape != found.shape:
        return Check(name, False, f"shape {found.shape}, expected {expected.shape}")
    if tolerance.angle is not None and found.shape[1] > 1:
        off = float((1 - (expected * found).sum(axis=1)).max())
        return Check(name, off <= tolerance.angle, f"1 - cosine at most {off:.1e}, allowed {tolerance.angle:.0e}")
    off = float(np.abs(expected - found).max())
    return Check(name, off <= tolerance.batching, f"off by at most {off:.1e}, allowed {tolerance.batching:.0e}")


def _size(model: Session, expected: int) -> Check:
    files = weight_files(model.folder)
    count = count_parameters(files)
    size = sum(file.stat().st_size for file in files) / 1e6
    right = abs(count / expected - 1) <= _SIZE_TOLERANCE
    return Check(
        "weights are as many as published", right, f"{count}, expected {expected}; {len(files)} files, {size:.0f} MB"
    )


def _sense(model: Session) -> Check:
    """Check that each question finds its own passage."""
    answers = [document for _, document in _TOPICS]
    if isinstance(model, LocalEncoder):
        scores = model.encode_queries(_QUERIES) @ model.encode_documents(answers).T
    else:
        assert isinstance(model, LocalReranker)
        scores = model.score([(query, answer) for query in _QUERIES for answer in answers]).reshape(4, 4)
    hits = int((scores.argmax(axis=1) == np.arange(len(answers))).sum())
    return Check("questions find their answers", hits == len(answers), f"{hits} of {len(answers)}")


def _published(model: Session, known: Published, tolerance: Tolerance) -> Iterator[Check]:
    if known.prefix or known.suffix:
        ids = _sequences(model, "你好")
        detail = f"{ids[:1]} ... {ids[-1:]}, expected {list(known.prefix)} ... {list(known.suffix)}"
        yield Check("published special tokens", _framed(ids, known.prefix, known.suffix), detail)
    for text, expected in known.ids.items():
        reads = _sequences(model, text) if isinstance(model, LocalEncoder) else model._model.tokenizer.ids([text])[0]
        yield Check(f"published ids of {text!r}", tuple(reads) == expected, f"{reads}, expected {list(expected)}")
    if isinstance(model, LocalEncoder):
        for texts, encode in ((known.documents, model.encode_documents), (known.queries, model.encode_queries)):
            for text, numbers in texts.items():
                yield _numbers(f"published vector of {text!r}", encode([text])[0], numbers, tolerance.component)
        for (query, document), cosine in known.cosines.items():
            found = (model.encode_queries([query]) * model.encode_documents([document])).sum(axis=1)
            yield _numbers(f"published cosine of {query!r}, {document!r}", found, (cosine,), tolerance.cosine)
    elif isinstance(model, LocalReranker) and known.scores:
        found = model.score(list(known.scores))
        for (query, document), score, value in zip(known.scores, known.scores.values(), found, strict=True):
            name = f"published score of {query!r}, {document!r}"
            yield _numbers(name, np.array([value]), (score,), tolerance.score)


def _numbers(name: str, found: np.ndarray, expected: tuple[float, ...], allowed: float) -> Check:
    shown = ", ".join(f"{value:.4f}" for value in found[: len(expected)])
    off = float(np.abs(found[: len(expected)] - np.array(expected)).max())
    return Check(name, off <= allowed, f"{shown}; off by {off:.1e}, allowed {allowed:.0e}")
