"""The ways in which the soak loads models, their inputs, and the serial results that everything is compared with."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import zh_retrieval as zr
from tests import golden
from tests.contract.demo_corpus import FOLDER
from tests.golden import recipe
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_xlmr_reranker


class WrongResultError(AssertionError):
    """A result differs from the serial reference."""


@dataclass
class Kind:
    """One way to load a model, its inputs, and the serial results."""

    label: str
    model: str
    options: dict[str, Any]
    tolerance: float  # float32: largest difference; else 1 - cosine
    exact: bool
    inputs: dict[str, list[Any]] = field(default_factory=dict)  # method -> inputs
    expected: dict[str, np.ndarray] = field(default_factory=dict)

    def open(self, **more: Any) -> Any:
        load = zr.load_encoder if zr.get_spec(self.model).task == "embedding" else zr.load_reranker
        return load(self.model, device="cpu", **(self.options | more))

    def check(self, method: str, rows: list[int], found: Any) -> None:
        found, expected = np.asarray(found, dtype=np.float32), self.expected[method][rows]
        if found.shape != expected.shape:
            raise WrongResultError(f"{self.label} {method}: shape {found.shape}, expected {expected.shape}")
        error = np.abs(found - expected) if self.exact else 1 - (found * expected).sum(-1)
        if error.size and error.max() > self.tolerance:
            raise WrongResultError(f"{self.label} {method}: off by {error.max():.2e}, allowed {self.tolerance:.0e}")


def make_kinds(folder: Path) -> list[Kind]:
    """Return the kinds with their references: every input alone, one after the other."""
    passages = [json.loads(line)["text"] for line in (FOLDER / "corpus.jsonl").read_text(encoding="utf-8").splitlines()]
    questions = [
        json.loads(line)["text"] for line in (FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    ]
    documents = ["", *passages, *("".join(passages[low : low + 9]) for low in range(0, 45, 9))]  # the last are cut
    texts = {"encode_queries": questions, "encode_documents": documents}
    pairs = {"score": [(question, passage) for question, passage in zip(questions, passages, strict=False)]}
    cross, causal = tiny_xlmr_reranker(folder / "cross"), tiny_causal_lm(folder / "causal")
    long = recipe.write(Path(golden.__file__).parent / "jina", folder / "long")
    mixed = {"encode_documents": [text[:size] for text in ("天气" * 900, "今天") for size in (1, 7, 60, 300, 1500)]}
    kinds = [
        Kind("float32", "e5-small-zh", {"dtype": "float32"}, 1e-5, True, texts),
        Kind("auto", "e5-small-zh", {}, 1e-3, False, texts),
        Kind("int8", "e5-small-zh", {"quantization": "int8"}, 1e-3, False, texts),  # a last bit may flip a rounding
        Kind("cross-encoder", "bge-reranker-large", {"path": cross, "dtype": "float32"}, 2e-5, True, pairs),
        Kind("likelihood", "rankinggpt", {"path": causal, "dtype": "float32"}, 2e-5, True, pairs),
    ]
    small_batches = {"path": long, "dtype": "float32", "max_batch_tokens": 100}
    kinds.append(Kind("long", "jina-base-zh", small_batches, 1e-5, True, mixed))
    return referred(kinds)


def make_trainings(folder: Path) -> list[Kind]:
    """Return one model before and after it was trained again: the weights of the second replace those of the first."""
    texts = {"encode_documents": ["今天天气很好", "我们去公园散步", "的一是在不了", "天气" * 40]}
    made = [tiny_bert(folder / f"training-{seed}", seed=seed) for seed in (0, 1)]
    options = [{"path": path, "dtype": "float32"} for path in made]
    return referred(
        [Kind(path.name, "bge-base-zh", said, 1e-5, True, texts) for path, said in zip(made, options, strict=True)]
    )


def referred(kinds: list[Kind]) -> list[Kind]:
    """Compute the references of some kinds, and return them."""
    for kind in kinds:
        with kind.open(private=True) as handle:
            for method, inputs in kind.inputs.items():
                rows = [getattr(handle, method)([one]) for one in inputs]
                kind.expected[method] = np.concatenate(rows)
    return kinds
