"""What runs on the machines of a cluster: a range is read, embedded and written as one part."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Literal

from zh_retrieval.distributed.encoding import Encoders, Encoding, missing_of
from zh_retrieval.distributed.job.agreement import how_computed
from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.job.planning import Piece, pieces
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError, InputError, ZhRetrievalError
from zh_retrieval.files.reading.encodings import UTF8
from zh_retrieval.files.reading.formats.columns import named
from zh_retrieval.files.reading.ranges import RangeReader
from zh_retrieval.files.reading.records import Form, Record, text_form
from zh_retrieval.files.reading.sources import Source
from zh_retrieval.files.writing.tables import columns_of
from zh_retrieval.usage import counted

_NAMED = 3  # bad rows of a range that are named one by one

Stage = Literal["read", "embed", "write"]


@dataclass(frozen=True, slots=True)
class Reading:
    """How rows become texts.

    Attributes:
        text_field: Field or column of the text.
        title_field: That of a title before it.
        id_field: That of the id; None: `id` or `_id`, if it is there.
        encoding: Of files that are text, as `check_encoding` gives it.
        others: The other columns stay in the parts.
    """

    text_field: str = "text"
    title_field: str | None = None
    id_field: str | None = None
    encoding: str = UTF8
    others: bool = True

    def form(self) -> Form:
        """Return it as the reader has it, which does not travel."""
        return text_form(self.text_field, self.title_field, id_field=self.id_field, encoding=self.encoding)


@dataclass(frozen=True, slots=True)
class Work:
    """What all workers of a job are told.

    Attributes:
        encoding: Which vectors they make.
        reading: How rows become texts.
        keep_bad: A bad row is a null with its error; otherwise its range fails.
        output: Folder of the parts.
        mark: That of the run, which the folder holds: see `PartFolder.claim`.
    """

    encoding: Encoding
    reading: Reading
    keep_bad: bool
    output: str
    mark: str | None = None


@dataclass
class Done:
    """What became of a range.

    Attributes:
        part: The name of its part.
        rows: Rows of its part.
        bad: Bad rows among them.
        cut: Texts that were longer than the model reads.
        lost: Tokens that these lost, at least.
        first_errors: What was wrong with the first of them.
        no_id: What is said of the first row that no field gives an id; None if there is none.
        failure: Why there is no part; None if there is one.
        stage: Where it failed.
        seconds: Time of each stage.
    """

    part: str
    rows: int = 0
    bad: int = 0
    cut: int = 0
    lost: int = 0
    first_errors: list[str] = field(default_factory=list)
    no_id: str | None = None
    failure: str | None = None
    stage: Stage = "read"
    seconds: dict[str, float] = field(default_factory=dict)


def plan_file(source: Source, rows: int, reading: Reading) -> list[Piece] | str:
    """Return the pieces of a file, or why it has none."""
    try:
        return pieces(source, rows, reading.form())
    except (ZhRetrievalError, OSError) as error:
        return str(error)
    except Exception as error:  # one file, and not the job
        return f"{type(error).__name__}: {error}"


class RangeWorker:
    """An actor: weights load once in it, and two ranges at a time keep reading and writing out of computing's way."""

    def __init__(self, work: Work, threads: int) -> None:
        """Take what is to be done; `load` loads the weights."""
        self._work = work
        self._threads = threads
        self._encoders: Encoders | None = None
        self._form = work.reading.form()
        self._reader = RangeReader(encoding=self._form.encoding, needs=self._form.needs)
        self._lock = threading.Lock()

    def load(self) -> tuple[dict[str, Any], float]:
        """Load the weights, and return how this worker computes and the seconds that took.

        Raises:
            ConfigError: This machine does not share the folder of the parts.
            ZhRetrievalError: The weights cannot be loaded.
        """
        begun = time.monotonic()
        if self._work.mark is not None:
            try:
                PartFolder(self._work.output).check_mark(self._work.mark)
            except ConfigError as error:
                raise ConfigError(f"{socket.gethostname()}: {error}") from None
        with self._lock:
            if self._encoders is None:
                self._encoders = self._work.encoding.with_threads(self._threads).open()
        return how_computed(self._encoders), time.monotonic() - begun

    def close(self) -> None:
        """Close the file that was read last."""
        self._reader.close()

    def embed(self, piece: Piece, part: str) -> Done:
        """Write the part of a range; failures are returned, not raised."""
        done, begun = Done(part), time.monotonic()

        def reached(stage: Stage, following: Stage | None = None) -> None:
            nonlocal begun
            done.seconds[stage] = time.monotonic() - begun
            done.stage, begun = following or stage, time.monotonic()

        try:
            records = self._read(piece, done)
            reached("read", "embed")
            with counted() as used:
                table = self._table(records, done)
            done.cut, done.lost = used.cut, used.lost
            reached("embed", "write")
            PartFolder(self._work.output).write(part, table)
            reached("write")
        except (InputError, OSError, require("pyarrow").ArrowException) as error:
            done.failure = str(error)
        except Exception as error:  # what nobody foresaw costs the job one part, and is said by its name
            done.failure = f"{type(error).__name__}: {error}"
        return done

    def _read(self, piece: Piece, done: Done) -> list[Record]:
        """Return the records of a range, bad ones among them.

        Raises:
            InputError: No row has the text's field: it has another name.
        """
        rows = self._reader.read(piece.range)
        records = [self._form.record(row) for row in rows if row.fields or not row.blank]
        field = self._work.reading.text_field
        known = [record for record in records if record.fields]
        if known and not any(field in record.fields for record in known):
            raise InputError(f"no row has a field {field!r}, only {named(known[0].fields)}. Say which: --text-field.")
        placed = next((record for record in records if not record.identified and record.error is None), None)
        if placed is not None:
            done.no_id = f"{placed.where} has no field 'id' or '_id', only {named(placed.fields)}"
        return records

    def _table(self, records: list[Record], done: Done) -> Any:
        """Return columns id, text, those of the input, those of the vectors, and error.

        Raises:
            InputError: A row is bad, and bad rows are not kept.
        """
        pa = require("pyarrow")
        errors = {index: record.error for index, record in enumerate(records) if record.error is not None}
        texts = [index for index in range(len(records)) if index not in errors]
        assert self._encoders is not None  # `load` comes first
        good, found, refused = self._encoders.encode_valid([records[index].text for index in texts])
        for index, message in refused.items():
            place = texts[index]
            errors[place] = f"{records[place].where}: {message}"
        done.rows, done.bad = len(records), len(errors)
        done.first_errors = [errors[index] for index in sorted(errors)[:_NAMED]]
        if errors and not self._work.keep_bad:
            more = f" ({len(errors)} bad rows in this range)" if len(errors) > 1 else ""
            raise InputError(f"{done.first_errors[0]}{more}")
        vectors = found.spread([texts[index] for index in good], len(records))
        columns = columns_of(records, self._form, others=self._work.reading.others, made=found.names)
        columns = {
            name: pa.nulls(len(records), pa.string()) if pa.types.is_null(column.type) else column
            for name, column in columns.items()
        }
        columns |= vectors.columns(missing_of(errors, len(records)))
        own = "error" if "error" not in columns else "embedding_error"
        columns[own] = pa.array([errors.get(index) for index in range(len(records))], type=pa.string())
        return pa.table(columns)
