"""Compute the tiny checkpoints in every arithmetic on the CPU at hand, which may be an emulated one.

`python computing.py FOLDER` prints a JSON object for each model and arithmetic as soon as it is computed:
`model`, `asked`, `warned`, and either `computed` (a dtype, or what weights are rounded to) and `values` (vectors N x D,
or scores N) or `error`. It needs the package and what it depends on: neither torch nor the other tests.
"""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path
from typing import Any

import numpy as np

import zh_retrieval as zr

OPTIONS: dict[str, dict[str, Any]] = {
    "float32": {"dtype": "float32"},
    "auto": {},
    "bfloat16": {"dtype": "bfloat16"},
    "int8": {"quantization": "int8"},
    "int4": {"quantization": "int4"},
}
SENTENCE = "今天天气很好，我们去公园散步。"  # of characters that the tiny vocabularies have
TEXTS = ("好", "我们去散步", SENTENCE, 4 * SENTENCE)


class _Kept(logging.Handler):
    """Keeps what is warned of."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self.messages: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())


def main(folder: Path) -> None:
    """Print the results of the models of a folder."""
    kept = _Kept()
    logging.getLogger("zh_retrieval").addHandler(kept)
    for case in json.loads((folder / "cases.json").read_text(encoding="utf-8")):
        for asked in case["asked"]:
            kept.messages.clear()
            result = {"model": case["name"], "asked": asked, **computed(case, folder, asked)}
            print(json.dumps({**result, "warned": kept.messages}), flush=True)


def computed(case: dict[str, Any], folder: Path, asked: str) -> dict[str, Any]:
    """Return what one model gives in one arithmetic: `computed` and `values`, or `error`."""
    path = {} if case["folder"] is None else {"path": folder / case["folder"]}
    load: Any = zr.load_reranker if case["reranks"] else zr.load_encoder
    try:
        with load(case["loads"], device="cpu", threads=1, private=True, **path, **OPTIONS[asked]) as handle:
            found = handle.score([(TEXTS[1], text) for text in TEXTS]) if case["reranks"] else _vectors(handle)
            dtype = str(handle.dtype).removeprefix("torch.")
            return {"computed": OPTIONS[asked].get("quantization", dtype), "values": np.stack(found).tolist()}
    except Exception as error:  # whatever it is, the other models are computed
        return {"error": f"{type(error).__name__}: {error}"}


def _vectors(encoder: Any) -> list[Any]:
    return [*encoder.encode_documents(TEXTS), *encoder.encode_queries(TEXTS[1:2])]


if __name__ == "__main__":
    main(Path(sys.argv[1]))
