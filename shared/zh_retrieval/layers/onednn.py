"""Linear layers for the CPU: weights laid out once for oneDNN, or rounded to int8.

oneDNN's operators are private to torch (inductor's freezing uses them too), so they are probed, their result is checked
at load, and torch's own linear stays where they are missing or wrong. For int8 they are the ones that inductor's x86
backend uses; torch.quantize_per_channel and what goes with it is deprecated. Weights are rounded for each output row,
activations for each call, so an int8 result depends a little on its batch.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from zh_retrieval.errors import ConfigError

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative to the largest value of the probe
_BLOCK = 256  # rows that are rounded at once: a larger temporary costs a page fault for every 4 KB of it


class _Fusing(nn.Module):
    """A linear layer of oneDNN, which can compute the exact GELU of its results before they leave the cache."""

    inputs: int
    dtype: torch.dtype
    _after: tuple[str, str] = ("none", "")

    def absorb_gelu(self) -> bool:
        """Compute the exact GELU of every result from now on; False, and no change, if oneDNN does that wrongly."""
        probe = _probe(self.inputs, self.dtype)
        expected = F.gelu(self(probe))
        self._after = ("gelu", "none")
        if _agree(expected, self(probe), _TOLERANCE[self.dtype]):
            return True
        self._after = ("none", "")
        return False


class PrepackedLinear(_Fusing):
    """A linear layer whose weight, (out, in), is kept in oneDNN's blocked layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.inputs, self.dtype = linear.in_features, linear.weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., out) for (..., in), in the dtype of the weight, after the exact GELU if it was absorbed."""
        after, how = self._after
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows.to(self.dtype), self.weight, self.bias, after, [], how
        )
        return out


class Int8Linear(_Fusing):
    """A linear layer with an int8 weight, one scale for each output row.

    A call rounds what it reads to 256 steps between its smallest and largest value.

    Attributes:
        answers: dtype of the results.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.inputs, self.dtype, self.answers = linear.in_features, torch.float32, torch.float32
        rounded, self.scales = _round_rows(linear.weight)
        self.zeros = torch.zeros(linear.out_features, dtype=torch.int64)
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., out) for (..., in), after the exact GELU if it was absorbed."""
        codes, step, zero = _round_all(rows)
        after, how = self._after
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, step, zero, self.weight, self.scales, self.zeros, self.bias, 1.0, 0, self.answers, after, [], how
        )
        return out


def _round_rows(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 (out, in), and the float32 (out,) that brings each row back."""
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def _round_all(rows: torch.Tensor) -> tuple[torch.Tensor, float, int]:
    """Return uint8 codes (..., in), the size of a step, and the code of zero; a step of NaN for what is not finite."""
    low, high = (value.item() for value in rows.aminmax())
    low, high = min(low, 0.0), max(high, 0.0)
    step = max((high - low) / 254, 1e-12)  # one code less than there are: nothing has to be clamped
    if not math.isfinite(step):
        return torch.zeros_like(rows, dtype=torch.uint8), math.nan, 0
    zero = round(-low / step)
    codes, shift = torch.empty_like(rows, dtype=torch.uint8), torch.tensor(zero + 0.5)
    for part, target in zip(rows.split(_BLOCK, -2), codes.split(_BLOCK, -2), strict=True):
        target.copy_(torch.add(shift, part.float(), alpha=1 / step))
    return codes, step, zero


def join(*linears: nn.Linear) -> nn.Linear:
    """Return one linear layer whose output is the outputs of all, one after the other."""
    outputs = sum(each.out_features for each in linears)
    joined = nn.Linear(linears[0].in_features, outputs, bias=linears[0].bias is not None, device="meta")
    joined.weight = nn.Parameter(torch.cat([each.weight.detach() for each in linears]), requires_grad=False)
    if linears[0].bias is not None:
        joined.bias = nn.Parameter(torch.cat([each.bias.detach() for each in linears]), requires_grad=False)
    return joined


def prepack(module: nn.Module) -> int:
    """Give every linear layer below `module` oneDNN's layout where that computes rightly; return how many changed."""
    return _replace(module, _prepacked)


def quantize_int8(module: nn.Module) -> int:
    """Round every linear layer below `module` to int8; return how many changed.

    Raises:
        ConfigError: This build of torch has no int8 operators, or the processor computes them wrongly.
    """
    try:
        return _replace(module, _rounded)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        raise ConfigError(f"quantization='int8' does not work with torch {torch.__version__} here: {error}.") from error


def _replace(module: nn.Module, make: Callable[[nn.Linear], nn.Module | None]) -> int:
    count = 0
    for name, child in list(module.named_children()):
        if type(child) is not nn.Linear:
            count += _replace(child, make)
        elif (made := make(child)) is not None:
            setattr(module, name, made)
            count += 1
    return count


def _prepacked(linear: nn.Linear) -> PrepackedLinear | None:
    if linear.weight.dtype not in _TOLERANCE:
        return None
    probe = _probe(linear.in_features, linear.weight.dtype)
    try:
        packed = PrepackedLinear(linear)
        expected, found = linear(probe), packed(probe)
    except (RuntimeError, AttributeError, NotImplementedError) as error:
        logger.info("oneDNN's prepacked linear is not to be had here: %s", error)
        return None
    if not _agree(expected, found, _TOLERANCE[expected.dtype]):
        logger.warning("oneDNN's prepacked linear gave another result than torch's: torch's is used.")
        return None
    return packed


def _rounded(linear: nn.Linear) -> Int8Linear:
    probe, made = _probe(linear.in_features, torch.float32), Int8Linear(linear)
    (weight, scales), (codes, step, zero) = _round_rows(linear.weight), _round_all(probe)
    expected = F.linear((codes.float() - zero) * step, weight * scales[:, None], made.bias)
    if not _agree(expected, made(probe), _TOLERANCE[torch.float32]):
        raise RuntimeError("this processor multiplies int8 wrongly")  # without VNNI sums of products may overflow
    return made


def _probe(width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.sin(torch.arange(3 * width) ** 2 * 12.9898).to(dtype).view(3, -1)  # like noise: nothing cancels out


def _agree(expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> bool:
    limit = tolerance * expected.abs().max().clamp(min=1e-6)
    return bool((expected - found).abs().max() <= limit)
