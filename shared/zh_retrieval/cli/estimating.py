"""`zh-retrieval embed --dry-run`: what a job would take, from a sample of its rows."""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import mean, stdev

from zh_retrieval.base import Encoder
from zh_retrieval.cli.console import Progress, say
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.reading.records import Reader, Record

_SAMPLE = 1024  # texts whose tokens are counted
_SECONDS = 20.0  # that the sample is encoded for, at most, but for the batch under way
_BATCH = 64  # texts at a time: what one call sorts by length


def add_estimate_flags(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--dry-run", action="store_true", help="say how many rows and tokens there are, and what they would take here"
    )
    parser.add_argument(
        "--hour-price", type=float, metavar="PRICE", help="with --dry-run: what an hour of this machine costs"
    )


def check_estimate_flags(arguments: argparse.Namespace) -> None:
    """Raise ConfigError where a price makes no sense, or another flag none beside `--dry-run`."""
    price = arguments.hour_price
    if price is not None and not (arguments.dry_run and 0 <= price < float("inf")):
        raise ConfigError(f"--hour-price {price!r} must be a price of at least 0, beside --dry-run.")
    if arguments.dry_run and arguments.no_dense:
        raise ConfigError(
            "--dry-run measures dense vectors; those of bm25-zh take next to nothing. Leave --no-dense out."
        )
    if arguments.dry_run and arguments.ray is not None:
        raise ConfigError("--dry-run measures this machine. Leave --ray out, and divide by the workers.")
    if arguments.dry_run and arguments.sparse is not None:
        raise ConfigError("--dry-run measures the dense model, which takes the time. Leave --sparse out.")


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a job would take.

    Attributes:
        rows: Of all inputs, those that can be read.
        tokens: Of a row, the mean of the sample; None where a server counts them.
        error: Half of the 95 % interval of that mean, as a share of it.
        cut: Share of the sample that is longer than the model reads.
        rate: Texts a second.
        encoded: Texts that the rate was measured with.
        bytes: Of all vectors.
    """

    rows: int
    tokens: float | None
    error: float
    cut: float
    rate: float
    encoded: int
    bytes: int

    @property
    def hours(self) -> float:
        """Return how long all rows would take at that rate."""
        return self.rows / self.rate / 3600


def estimate(records: Iterable[Record | None], encoder: Encoder, role: str, instruction: str | None) -> Estimate:
    """Return what embedding all records would take; they are read to the end, a sample of them is embedded.

    Raises:
        ConfigError: There are no records.
    """
    rows, sample = _sampled(records)
    if not sample:
        raise ConfigError("There are no rows to embed.")
    counts = encoder.token_counts(sample)
    read = None if counts is None else [min(count, encoder.max_length) for count in counts]
    spread = 1.96 * stdev(read) / len(read) ** 0.5 / mean(read) if read and len(read) > 1 else 0.0
    encoded, seconds = _timed(sample, encoder, role, instruction)
    return Estimate(
        rows=rows,
        tokens=mean(read) if read else None,
        error=spread if rows > len(sample) else 0.0,
        cut=mean(count > encoder.max_length for count in counts) if counts else 0.0,
        rate=encoded / seconds,
        encoded=encoded,
        bytes=rows * encoder.dimension * 4,
    )


def _sampled(records: Iterable[Record | None]) -> tuple[int, list[str]]:
    """Return how many there are, and up to 1024 texts, each as likely as every other (a reservoir), in random order."""
    chance, sample, rows = random.Random(0), list[str](), 0
    with Progress("row") as shown:
        for record in records:
            if record is None:
                continue
            rows += 1
            place = rows - 1 if rows <= _SAMPLE else chance.randrange(rows)
            if place < len(sample):
                sample[place] = record.text
            elif len(sample) < _SAMPLE:
                sample.append(record.text)
            if rows % 1000 == 0:
                shown.advance(1000)
    chance.shuffle(sample)
    return rows, sample


def _timed(texts: Sequence[str], encoder: Encoder, role: str, instruction: str | None) -> tuple[int, float]:
    """Return how many texts were encoded in how many seconds; the first batch, which is slow, does not count twice."""

    def encode(batch: Sequence[str]) -> None:
        if role == "query":
            encoder.encode_queries(batch, instruction=instruction)
        else:
            encoder.encode_documents(batch)

    encode(texts[:_BATCH])
    begun, done = time.perf_counter(), 0
    while done < len(texts) and time.perf_counter() - begun < _SECONDS:
        encode(texts[done : done + _BATCH])
        done += len(texts[done : done + _BATCH])
    return done, time.perf_counter() - begun


def dry_run(arguments: argparse.Namespace, reader: Reader, records: Iterable[Record | None], encoder: Encoder) -> int:
    """Print the estimate, and return 0."""
    found = estimate(records, encoder, arguments.role, arguments.instruction)
    reader.report(rows_matter=False)
    print(f"rows    {found.rows:,}" + (f", and {reader.skipped:,} that are none" if reader.skipped else ""))
    if found.tokens is not None:
        print(
            f"tokens  {found.rows * found.tokens:,.0f}: {found.tokens:.0f} a row ± {found.error:.0%}, "
            f"{found.cut:.1%} of the rows longer than {encoder.max_length}"
        )
    print(f"time    {_duration(found.hours)} here: {found.rate:.1f} texts/s, measured with {found.encoded}")
    print(f"vectors {found.bytes / 1e9:.2f} GB as float32; room for twice that and the text while it runs")
    if arguments.hour_price is not None:
        print(f"cost    {found.hours * arguments.hour_price:,.2f} at {arguments.hour_price:g} an hour")
    say("a dry run: nothing was written")
    return 0


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{hours * 60:.1f} min"
