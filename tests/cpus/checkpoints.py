"""Tiny checkpoints of every architecture that has a graph, for `computing`; torch makes them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from tests import golden, tiny_models
from tests.golden.recipe import write
from tests.golden.test_qwen1 import checkpoint

ROUNDED = ("float32", "auto", "int8")  # of what takes a minute each under an emulator
ENCODER = (*ROUNDED, "bfloat16")
DECODER = (*ENCODER, "int4")


@dataclass(frozen=True, slots=True)
class Case:
    """A model.

    Attributes:
        loads: Whose recipe.
        make: Writes its checkpoint; None: the built-in weights.
        asked: In which arithmetics.
        reranks: It is a reranker.
    """

    loads: str
    make: Callable[[Path], object] | None
    asked: tuple[str, ...] = ENCODER
    reranks: bool = False


def _jina(folder: Path) -> Path:
    return write(Path(golden.__file__).parent / "jina", folder)


def _gte_head(folder: Path) -> Path:
    return tiny_models.tiny_gte(folder, head="pairs")


def _yes_no(folder: Path) -> Path:
    return tiny_models.tiny_qwen3(folder, head=True)


CASES = {
    "built-in": Case("e5-small-zh", None, ROUNDED),
    "bert": Case("bge-base-zh", tiny_models.tiny_bert),
    "xlm-roberta": Case("bge-m3", tiny_models.tiny_xlmr),
    "xlm-roberta-head": Case("bge-reranker-large", tiny_models.tiny_xlmr_reranker, reranks=True),
    "jina-bert": Case("jina-base-zh", _jina),
    "gte": Case("gte-multilingual-base", tiny_models.tiny_gte),
    "gte-head": Case("gte-multilingual-reranker-base", _gte_head, reranks=True),
    "mistral": Case("e5-mistral", tiny_models.tiny_mistral, DECODER),
    "qwen3": Case("qwen3-embedding-0.6b", tiny_models.tiny_qwen3, DECODER),
    "qwen1-likelihood": Case("rankinggpt", checkpoint, (*ROUNDED, "int4"), reranks=True),
    "llama-likelihood": Case("rankinggpt", tiny_models.tiny_causal_lm, DECODER, reranks=True),
    "qwen3-yes-no": Case("qwen3-reranker-0.6b", _yes_no, DECODER, reranks=True),
}


def make(folder: Path, names: Iterable[str]) -> None:
    """Write the checkpoints of the named cases, and cases.json, which `computing` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    listed = []
    for name in names:
        case = CASES[name]
        if case.make is not None:
            case.make(folder / name)
        place = None if case.make is None else name
        listed.append(
            {"name": name, "loads": case.loads, "folder": place, "asked": case.asked, "reranks": case.reranks}
        )
    (folder / "cases.json").write_text(json.dumps(listed), encoding="utf-8")
