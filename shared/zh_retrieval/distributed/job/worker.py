"""What runs on the machines of a cluster: a range is read, embedded and written as one part."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import InputFile, Range, plan
from zh_retrieval.distributed.job.reading import Row, read
from zh_retrieval.distributed.mapping import each
from zh_retrieval.distributed.resources import require, use_threads
from zh_retrieval.errors import InputError
from zh_retrieval.files.records import text_parser

_PROBE = "检索模型把文字变成向量。"
_ALIKE = 0.998  # least cosine of one text's vectors by the same weights, in any order of computing
_NAMED = 3  # bad rows of a range that are named one by one

Stage = Literal["read", "embed", "write"]


@dataclass(frozen=True, slots=True)
class Work:
    """What all workers of a job are told.

    Attributes:
        model: Name of a model, or a recipe.
        options: Those of `load_encoder`.
        role: "document" or "query".
        instruction: Replaces the model's query instruction.
        text_field: Field or column of the text.
        title_field: That of a title before it.
        keep_bad: A bad row is a null with its error; otherwise its range fails.
        output: Folder of the parts.
    """

    model: Any
    options: dict[str, Any]
    role: Literal["document", "query"]
    instruction: str | None
    text_field: str
    title_field: str | None
    keep_bad: bool
    output: str


@dataclass
class Done:
    """What became of a range.

    Attributes:
        rows: Rows of its part.
        bad: Bad rows among them.
        said: What was wrong with the first of them.
        failure: Why there is no part; None if there is one.
        stage: Where it failed.
        seconds: Time of each stage.
    """

    rows: int = 0
    bad: int = 0
    said: list[str] = field(default_factory=list)
    failure: str | None = None
    stage: Stage = "read"
    seconds: dict[str, float] = field(default_factory=dict)


def plan_file(file: InputFile, rows: int) -> list[Range] | str:
    """Return the ranges of a file, or why it has none."""
    try:
        return plan(file, rows)
    except (InputError, OSError) as error:
        return str(error)


class RangeWorker:
    """An actor: weights load once in it, and two ranges at a time keep reading and writing out of computing's way."""

    def __init__(self, work: Work, threads: int) -> None:
        """Take what is to be done; `load` loads the weights."""
        self._work = work
        self._threads = threads
        self._encoder: Any = None
        self._lock = threading.Lock()

    def load(self, expected: dict[str, Any] | None) -> tuple[dict[str, Any], float]:
        """Load the weights, and return how this worker computes and the seconds that took.

        Raises:
            ZhRetrievalError: The weights cannot be loaded.
            InputError: It computes otherwise than those before it: see `alike`.
        """
        from zh_retrieval.loading import load_encoder

        begun = time.monotonic()
        with self._lock:
            if self._encoder is None:
                options = use_threads(dict(self._work.options), self._threads)
                self._encoder = load_encoder(self._work.model, **options)
        probe = self._encoder.encode_documents([_PROBE])[0]
        computes = {"dtype": str(self._encoder.dtype), "max_length": self._encoder.max_length, "probe": probe.tolist()}
        if expected is not None:
            check_alike(expected, computes)
        return computes, time.monotonic() - begun

    def embed(self, part: Range) -> Done:
        """Write the part of a range; failures are returned, not raised."""
        done, begun = Done(), time.monotonic()

        def reached(stage: Stage, following: Stage | None = None) -> None:
            nonlocal begun
            done.seconds[stage] = time.monotonic() - begun
            done.stage, begun = following or stage, time.monotonic()

        work = self._work
        try:
            fields = (work.text_field, *([work.title_field] if work.title_field else ()))
            rows = read(part, text_parser(work.text_field, work.title_field), fields)
            reached("read", "embed")
            table = self._table(rows, done)
            reached("embed", "write")
            PartFolder(work.output).write(part.part, table)
            reached("write")
        except (InputError, OSError, require("pyarrow").ArrowException) as error:
            done.failure = str(error)
        return done

    def _table(self, rows: list[Row], done: Done) -> Any:
        """Return columns id, text, embedding and error.

        Raises:
            InputError: A row is bad, and bad rows are not kept.
        """
        pa = require("pyarrow")
        errors = {index: row.error for index, row in enumerate(rows) if row.error is not None}
        texts = [index for index, row in enumerate(rows) if row.error is None]
        good, computed, refused = each(self._encode, [rows[index].text for index in texts])
        for index, message in refused.items():
            place = texts[index]
            errors[place] = f"{rows[place].where}: {message.replace('texts[0]', 'the text')}"
        done.rows, done.bad = len(rows), len(errors)
        done.said = [errors[index] for index in sorted(errors)[:_NAMED]]
        if errors and not self._work.keep_bad:
            more = f" ({len(errors)} bad rows in this range)" if len(errors) > 1 else ""
            raise InputError(f"{done.said[0]}{more}")
        vectors = np.zeros((len(rows), self._encoder.dimension), dtype=np.float32)
        vectors[[texts[index] for index in good]] = computed
        missing = pa.array([index in errors for index in range(len(rows))]) if errors else None
        flat = pa.array(vectors.reshape(-1), type=pa.float32())
        columns = {
            "id": pa.array([row.id for row in rows], type=pa.string()),
            "text": pa.array([row.text for row in rows], type=pa.string()),
            "embedding": pa.FixedSizeListArray.from_arrays(flat, self._encoder.dimension, mask=missing),
            "error": pa.array([errors.get(index) for index in range(len(rows))], type=pa.string()),
        }
        return pa.table(columns)

    def _encode(self, texts: Any) -> np.ndarray:
        vectors: np.ndarray
        if self._work.role == "query":
            vectors = self._encoder.encode_queries(texts, instruction=self._work.instruction)
        else:
            vectors = self._encoder.encode_documents(texts)
        return vectors


def check_alike(expected: dict[str, Any], computes: dict[str, Any]) -> None:
    """Raise InputError if two workers would give one text different vectors: other dtypes, lengths or weights."""
    for name in ("dtype", "max_length"):
        if expected[name] != computes[name]:
            raise InputError(
                f"One worker computes with {name}={computes[name]}, others with {expected[name]}: their vectors "
                f"do not belong together. Say which: --{name.replace('_', '-')}."
            )
    one, other = np.array(expected["probe"]), np.array(computes["probe"])
    if one.shape != other.shape or one @ other < _ALIKE * np.linalg.norm(one) * np.linalg.norm(other):
        raise InputError(
            "Two workers give one text different vectors: their machines have different weights, or those in the "
            "folder are of another model. Give all of them the same, or choose another --output."
        )
