"""Does a causal LM give here what it gives by itself? Asked of each one when it is loaded.

Transformers has some two hundred families, and each may ask of attention, masks and positions what packed rows do not
give. So the model's own forward, alone and with transformers' plain attention, judges: two sequences, two passes. A
third pass has both as one packed row; if that is off, a fourth has them padded; if it is right, a fourth has what they
share once. All are of at most 20 tokens.

Axes: L tokens of a sequence, V vocabulary.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch

from zh_retrieval.checkpoint.load import quiet
from zh_retrieval.errors import CheckpointError
from zh_retrieval.layers.attention import NAME
from zh_retrieval.layers.forward import packed_hidden, padded_hidden
from zh_retrieval.layers.memory import is_out_of_memory
from zh_retrieval.layers.packing import PackedBatch, pack
from zh_retrieval.layers.shared import Beginning, pack_shared
from zh_retrieval.models.base import Parts
from zh_retrieval.sequence import Tokens
from zh_retrieval.tokenization.tokenizer import TextTokenizer

logger = logging.getLogger(__name__)

_TEXT = "今天天气很好，我们去公园散步，然后回家做饭。"
_LONGER, _SHARED, _SHORTER = 16, 3, 4  # tokens: of a sequence, of both in common, of the other, where a leak shows most
_WINDOW = 4  # tokens that a sliding window or chunk holds during the check, so that short sequences leave it
_WINDOWS = ("sliding_window", "attention_chunk_size")  # what transformers' masks read from a config
_EXACT = 1e-3  # distance in float32; rounding gives up to 5e-5, the faults that were seen from 0.07 on
_ROUGH = {torch.float16: 0.05, torch.bfloat16: 0.1}  # rounding gives up to 0.003 and 0.05


class PackedCheck:
    """The logits of a model's own forward for two sequences, to be compared with what an engine computes.

    Args:
        parts: On their device, in the transformers modules that they were loaded as.
        tokenizer: Gives the ids of the two sequences.
        device: Where input ids go.

    Raises:
        CheckpointError: The model does not run on text alone, or its tokens see later ones.
    """

    def __init__(self, parts: Parts, tokenizer: TextTokenizer, device: torch.device) -> None:
        self._parts = parts
        self._family = parts.whole.config.model_type
        self._batch = pack([Tokens(ids) for ids in _sequences(tokenizer)], device)
        self._tolerance = _tolerance(parts.whole)
        with _checking(parts.whole):
            self._expected = self._alone()

    def choose(self) -> Parts:
        """Return the parts, packed if their packed rows are right, else padded; causal if a shared prefix is, too.

        Raises:
            CheckpointError: They are not right padded either.
        """
        fault = ""
        with _checking(self._parts.whole):
            for packed in (True, False) if self._parts.packed else (False,):
                parts = replace(self._parts, packed=packed)
                _use(parts.whole, NAME if packed else "eager")
                fault = self._fault(parts, self._batch, self._expected)
                if not fault:
                    return self._sharing(parts)
                logger.info("%r is not computed %s: %s", self._family, "packed" if packed else "padded", fault)
        raise CheckpointError(
            f"{self._family!r} is not supported: a batch does not give what the model gives alone ({fault}). "
            "Use a model of another family."
        )

    def _sharing(self, parts: Parts) -> Parts:
        """Return the parts, causal if a prefix that is computed once gives the same logits."""
        if not (parts.packed and parts.causal):
            return replace(parts, causal=False)
        tokens, device = self._batch.tokens, self._batch.input_ids.device
        batch = pack_shared(tokens, [Beginning(tokens[0].ids[:_SHARED], (0, 1))], device)
        first, second = self._expected
        fault = self._fault(parts, batch, [first[_SHARED:], second[_SHARED:], first[:_SHARED]])
        if fault:
            logger.info("%r computes every sequence whole: %s", self._family, fault)
        return replace(parts, causal=not fault)

    def _alone(self) -> list[torch.Tensor]:
        """Return the model's own logits of each sequence, (L, V)."""
        model, family = self._parts.whole, self._family
        _use(model, "eager")
        expected = []
        for ids in self._batch.input_ids.split(self._batch.layout.lengths, dim=1):
            try:
                logits = model(input_ids=ids, use_cache=False).logits
            except Exception as error:  # two hundred families raise what they like
                if is_out_of_memory(error):
                    raise
                raise CheckpointError(f"{family!r} is not supported: on text alone it fails with {error!r}.") from error
            if logits.shape[:-1] != ids.shape:
                raise CheckpointError(
                    f"{family!r} is not supported: logits are {tuple(logits.shape)}, expected {(*ids.shape, 'V')}."
                )
            expected.append(logits[0].float().cpu())
        if _distance(expected[1][:_SHARED], expected[0][:_SHARED], self._tolerance) > self._tolerance:
            raise CheckpointError(f"This {family!r} is no causal language model: its tokens see later ones.")
        return expected

    def _fault(self, parts: Parts, batch: PackedBatch, expected: list[torch.Tensor]) -> str:
        """Return what is wrong with the logits of a batch, each part of whose row has such ones; "" if nothing is."""
        forward = packed_hidden if parts.packed else padded_hidden
        head: Any = parts.head
        try:
            logits = head(forward(parts.body, batch)).float().cpu()
            parted = logits.split([len(each) for each in expected])
        except Exception as error:  # two hundred families raise what they like
            if is_out_of_memory(error):
                raise
            return repr(error)
        distance = max(_distance(found, own, self._tolerance) for found, own in zip(parted, expected, strict=True))
        return "" if distance <= self._tolerance else f"logits are off by {distance:.2g}"


def _sequences(tokenizer: TextTokenizer) -> tuple[list[int], list[int]]:
    """Return two sequences that begin alike."""
    ids = tokenizer.ids([_TEXT])[0]
    longer = [*ids, *ids][:_LONGER]
    return longer, [*longer[:_SHARED], *reversed(longer[: _SHORTER - _SHARED])]


def _use(model: Any, attention: str) -> None:
    if model.config._attn_implementation != attention:
        model.set_attn_implementation(attention)


def _distance(found: torch.Tensor, expected: torch.Tensor, tolerance: float) -> float:
    """Return how far logits (L, V) are from others, by their spread over the vocabulary; 0 is equal.

    It is the mean over L, but the median where numbers are rough: there a token may go to another expert by rounding.
    """
    if found.shape != expected.shape:
        return math.inf
    centred = expected - expected.mean(-1, keepdim=True)
    off = found - found.mean(-1, keepdim=True) - centred
    distances = off.norm(dim=-1) / centred.norm(dim=-1).clamp_min(1e-12)  # (L,)
    distance = float(distances.mean() if tolerance == _EXACT else distances.median())
    return distance if math.isfinite(distance) else math.inf


def _tolerance(model: Any) -> float:
    quantized = getattr(model, "is_quantized", False) or torch.get_float32_matmul_precision() != "highest"
    if model.dtype == torch.float32:
        return _ROUGH[torch.float16] if quantized else _EXACT
    return _ROUGH.get(model.dtype, _ROUGH[torch.bfloat16])


@contextmanager
def _checking(model: Any) -> Iterator[None]:
    with torch.inference_mode(), quiet(), _short_windows(model):
        yield


@contextmanager
def _short_windows(model: Any) -> Iterator[None]:
    """Let sliding windows and chunks hold a few tokens; what differs only in long sequences then differs here."""
    changed: list[tuple[Any, str, int]] = []
    configs = {id(module.config): module.config for module in model.modules() if hasattr(module, "config")}
    for owner in (*configs.values(), *model.modules()):
        for name in _WINDOWS:
            size = getattr(owner, name, None)
            if isinstance(size, int) and size > _WINDOW:
                changed.append((owner, name, size))
                setattr(owner, name, _WINDOW)
    try:
        yield
    finally:
        for owner, name, size in changed:
            setattr(owner, name, size)
