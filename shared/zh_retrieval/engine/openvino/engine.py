"""A graph that OpenVINO runs on the CPU, as the scheduler drives it.

Axes: B sequences of a batch, L tokens of the longest, R result rows.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import openvino as ov

from zh_retrieval import process
from zh_retrieval.engine.budget import Budget
from zh_retrieval.engine.openvino.buckets import buckets, padded_count, padded_length
from zh_retrieval.engine.openvino.inference import Settings, abandon, compiled, infer
from zh_retrieval.engine.openvino.long_texts import LongTexts
from zh_retrieval.engine.openvino.readouts import Readout
from zh_retrieval.engine.prefixes import Prefix, Prefixes
from zh_retrieval.errors import DeviceMemoryError
from zh_retrieval.layers.memory import is_out_of_memory, release_frames
from zh_retrieval.sequence import Tokens

_MOST_BYTES = 512 * 2**20  # of the keys and values of one prefix, which exist while its pass runs

MoreInputs = Callable[[Sequence[Tokens], int], Sequence[np.ndarray]]
"""The sequences of a batch and the length of the longest to arrays."""


@dataclass(slots=True)
class Done:
    """Rows that are computed."""

    rows: np.ndarray
    ready: bool = True

    def result(self) -> np.ndarray:
        """Return float32 (R, width)."""
        return self.rows


class OpenVinoEngine:
    """Runs batches on the CPU. Not thread-safe: one worker owns it.

    Attributes:
        device: "cpu".
        dtype: What it computes in, by its name.
        width: Length of a result row: the dimension of a vector, or 1 for a score.
    """

    device = "cpu"

    def __init__(
        self,
        build: Callable[[], ov.Model],
        readout: Readout,
        settings: Settings,
        *,
        dtype: str,
        width: int,
        max_batch_tokens: int,
        max_length: int | None = None,
        more_inputs: MoreInputs | None = None,
        long_texts: LongTexts | None = None,
        past: np.ndarray | None = None,
        typed: bool = False,
    ) -> None:
        """Build the graph and compile it.

        Args:
            build: Makes the graph, and holds the memory that it shares. Its inputs are ids, int32 (B, L), right-padded
                with 0, and lengths, int32 (B, 1).
            readout: Its output to rows.
            settings: How to compute.
            dtype: The name of what it computes in.
            width: Length of a result row.
            max_batch_tokens: Token budget of a pass.
            max_length: The most tokens of one sequence that the graph takes; None is any.
            more_inputs: What the graph takes after ids and lengths; None is nothing.
            long_texts: What computes longer sequences; None: there are none.
            past: The keys and values of no tokens, float32 (2 * layers, heads, 0, head size), where the graph takes
                `past` and `keep` last and gives keys and values last: it computes a shared prefix once. None: it
                does not.
            typed: The graph's lengths are (B, 2): the second number is where the second text of a pair begins.
        """
        self.dtype = dtype
        self.width = width
        self._holder = build
        self._model = (
            build()
        )  # kept for forked children: files may be others by then, and the plugin needs no more of it
        self._readout = readout
        self._max_length = max_length
        self._more_inputs = more_inputs
        self._long_texts = long_texts
        self._nothing = past
        self._prefixes = None if past is None else Prefixes[np.ndarray](_longest_prefix(past))
        self._typed = typed
        self._settings = settings
        self._budget = Budget(max_batch_tokens, self.device)
        self._request: Any = None
        _ALIVE.add(self)
        self._compile()

    def __del__(self, ends: Callable[[], bool] = sys.is_finalizing) -> None:
        """Free what is compiled before a fork comes: a child that has half of it hangs or aborts."""
        if not ends():  # when the interpreter ends, other modules may be gone
            with process.forks_wait(finalizer=True):
                self._request = self._long_texts = self._model = None

    @property
    def max_batch_tokens(self) -> int:
        """Return the token budget of a pass."""
        return self._budget.tokens

    def _compile(self) -> None:
        assert self._model is not None  # it goes with the engine alone
        with process.forks_wait():  # until it is where `renew` finds it: a child frees what is in a thread's frames
            self._request = compiled(self._model, self._settings)

    def activate(self) -> AbstractContextManager[object]:
        """Return a context that does nothing."""
        return nullcontext()

    def is_fatal(self, error: BaseException) -> bool:
        """Return False: whatever fails, the next batch may not."""
        del error
        return False

    def run(self, tokens: Sequence[Tokens]) -> np.ndarray:
        """Return float32 (R, width), rows in the order of `tokens`.

        Raises:
            DeviceMemoryError: One sequence alone does not fit.
        """
        return self.launch(tokens).result()

    def launch(self, tokens: Sequence[Tokens]) -> Done:
        """Compute one batch, in passes of sequences of about one length.

        Raises:
            DeviceMemoryError: One sequence alone does not fit.
        """
        if self._request is None:
            self._compile()
        parts: list[np.ndarray | None] = [None] * len(tokens)
        groups = [((), [*range(len(tokens))])] if self._prefixes is None else self._prefixes.groups(tokens)
        for prefix, indices in groups:
            past, left = self._past(prefix, tokens[indices[0]].instructed)
            rest = [tokens[index].after(len(left)) for index in indices]
            for batch in buckets([len(item.ids) for item in rest], self.max_batch_tokens, len(left)):
                items = [rest[number] for number in batch]
                ends = np.cumsum([item.rows for item in items])
                for number, rows in zip(batch, np.split(self._rows(items, past), ends[:-1]), strict=True):
                    parts[indices[number]] = rows
        return Done(np.concatenate([part for part in parts if part is not None]))

    def _past(self, prefix: Prefix, instructed: bool) -> tuple[np.ndarray | None, Prefix]:
        """Return keys and values of a prefix, and the prefix; those of none where there is no memory for them."""
        if self._prefixes is None:
            return None, ()
        if not prefix:
            return self._nothing, ()
        found = self._prefixes.get(prefix)
        if found is not None:
            return found, prefix
        try:
            found = self._outputs([Tokens(prefix, targets=(0,))], self._nothing, keep=len(prefix))[1].copy()
        except Exception as error:
            release_frames(error)
            if not is_out_of_memory(error):
                raise
            self._recover(error)
            return self._nothing, ()
        if instructed:
            self._prefixes.keep(prefix, found)
        return found, prefix

    def _rows(self, tokens: Sequence[Tokens], past: np.ndarray | None) -> np.ndarray:
        """Return the rows of one pass, or of its halves if memory runs out."""
        try:
            rows = self._computed(tokens, past)
        except Exception as error:
            release_frames(error)
            if not is_out_of_memory(error):
                raise
            self._recover(error)
            return self._halved(tokens, past, error)
        self._budget.grow()
        return rows

    def _computed(self, tokens: Sequence[Tokens], past: np.ndarray | None) -> np.ndarray:
        if self._long_texts is not None and max(len(item.ids) for item in tokens) > self._long_texts.above:
            return self._long_texts.run(tokens)
        output = self._outputs(tokens, past)[0]
        return self._readout(output if self._more_inputs is not None else output[: len(tokens)], tokens)

    def _recover(self, error: Exception) -> None:
        """Replace what a lack of memory left half prepared: it would give wrong numbers later on.

        Raises:
            DeviceMemoryError: There is no memory for that either; the next batch tries again.
        """
        request, self._request = self._request, None
        try:
            if request is not None and "broken promise" in str(error).lower():  # of what all requests share
                request = None
                self._compile()
            elif request is not None:
                self._request = request.get_compiled_model().create_infer_request()
        except Exception as again:
            release_frames(again)
            if not is_out_of_memory(again):
                raise
            raise DeviceMemoryError("Memory ran out, and what computes does not fit into what is left.") from again

    def _halved(self, tokens: Sequence[Tokens], past: np.ndarray | None, error: Exception) -> np.ndarray:
        if len(tokens) == 1:
            raise DeviceMemoryError(
                f"A sequence of {len(tokens[0].ids)} tokens does not fit into memory. Lower max_length, or use "
                "quantization='int8'."
            ) from error
        self._budget.shrink(max(len(item.ids) for item in tokens))
        half = len(tokens) // 2
        return np.concatenate([self._rows(tokens[:half], past), self._rows(tokens[half:], past)])

    def _outputs(self, tokens: Sequence[Tokens], past: np.ndarray | None, keep: int = 0) -> list[np.ndarray]:
        """Return the graph's outputs for the sequences, in memory that the next pass writes over.

        Both sizes of a batch are rounded up: rows of padding have one token, and what comes out for them is left out.
        """
        lengths = [len(item.ids) for item in tokens]
        longest = max(lengths)
        before = 0 if past is None else past.shape[2]
        longest = max(longest, min(padded_length(longest), (self._max_length or longest) - before))
        count = padded_count(len(tokens)) if self._more_inputs is None else len(tokens)
        ids = np.zeros((count, longest), dtype=np.int32)
        for row, item in zip(ids, tokens, strict=False):
            row[: len(item.ids)] = item.ids
        ends = [lengths + [1] * (count - len(tokens))]
        if self._typed:
            seconds = [len(item.ids) if item.second is None else item.second for item in tokens]
            ends.append(seconds + [1] * (count - len(tokens)))
        more = self._more_inputs(tokens, longest) if self._more_inputs is not None else ()
        inputs = [ids, np.ascontiguousarray(np.array(ends, dtype=np.int32).T), *more]
        sizes = [(0, len(more[-1]) if more else count)]
        if past is not None:
            inputs += [past, np.array([keep], dtype=np.int32)]
            sizes += [(2, keep)] if keep else []
        return infer(self._request, inputs, sizes)

    def renew(self) -> None:
        """Leave what the parent of a forked process compiled, and compile anew when the next batch comes.

        Its threads do not exist here: to free it would be to wait for them for ever.
        """
        if self._request is not None:
            abandon(self._request)
            self._request = None
        if self._long_texts is not None:
            self._long_texts.renew()


def _longest_prefix(past: np.ndarray) -> int:
    """Return how many tokens take 512 MB, by the keys and values of none."""
    layers, heads, _, head = past.shape
    return int(_MOST_BYTES // (layers * heads * head * past.itemsize))


_ALIVE: weakref.WeakSet[OpenVinoEngine] = weakref.WeakSet()


def _after_fork() -> None:
    for engine in list(_ALIVE):
        engine.renew()


process.in_child(_after_fork)
