"""Linear layers for the CPU: weights laid out once for oneDNN, or rounded to int8.

oneDNN's operators are private to torch (inductor's freezing uses them too), so they are probed, their result is checked
at load, and torch's own linear stays where they are missing or wrong. For int8 they are the ones that inductor's x86
backend uses; torch.quantize_per_channel and what goes with it is deprecated. Weights are rounded for each output row,
activations for each token: a scale for the whole batch would let other texts, other callers' too, move a vector.

Axes: T rows, I inputs, O outputs of a layer.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from zh_retrieval.errors import ConfigError

logger = logging.getLogger(__name__)

_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative to the largest value of the probe
_BLOCK = 256  # rows at once in int8: larger temporaries leave the cache, and cost a page fault for every 4 KB of them
_LEVELS = 254  # steps between the smallest and the largest value of a row; 255 codes, so that rounding up stays a uint8


class PrepackedLinear(nn.Module):
    """A linear layer whose weight, (O, I), is kept in oneDNN's blocked layout."""

    _after: tuple[str, str] = ("none", "")

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.inputs, self.dtype = linear.in_features, linear.weight.dtype
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()

    def absorb_gelu(self) -> bool:
        """Compute the exact GELU of every result from now on; False, and no change, if oneDNN does that wrongly."""
        probe = _probe(self.inputs, self.dtype)
        expected = F.gelu(self(probe))
        self._after = ("gelu", "none")
        if _agree(expected, self(probe), _TOLERANCE[self.dtype]):
            return True
        self._after = ("none", "")
        return False

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., O) for (..., I), in the dtype of the weight, after the exact GELU if it was absorbed."""
        after, how = self._after
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows.to(self.dtype), self.weight, self.bias, after, [], how
        )
        return out


class Int8Linear(nn.Module):
    """A linear layer with an int8 weight, one scale for each output row.

    Every row that comes in is rounded to 255 codes between its own smallest and largest value (zero among them):
    x = low + step * code, so x @ W.T = step * (code @ W.T) + low * sums of W's rows. oneDNN's operator takes one scale
    for all rows and does the product alone; what differs from row to row is done after it.

    Attributes:
        answers: dtype of the results.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.answers = torch.float32
        rounded, self.scales = _round_weight(linear.weight)
        self.sums = rounded.sum(dim=1, dtype=torch.int64).float() * self.scales  # (O,)
        self.zeros = torch.zeros(linear.out_features, dtype=torch.int64, device="cpu")
        self.weight = torch.ops.onednn.qlinear_prepack(rounded, None)
        self.bias = None if linear.bias is None else linear.bias.detach().float()
        self._gelu = False

    def absorb_gelu(self) -> bool:
        """Compute the exact GELU of every result from now on, in float32 whatever `answers` is; always True."""
        self._gelu = True
        return True

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., O) for (..., I), after the exact GELU if it was absorbed; NaN for rows that are not finite."""
        flat = rows.flatten(0, -2)
        if flat.shape[0] <= _BLOCK:
            alone: torch.Tensor = self._block(flat).to(self.answers)
            return alone.view(*rows.shape[:-1], -1)
        out = torch.empty((flat.shape[0], self.sums.shape[0]), dtype=self.answers, device="cpu")
        for part, target in zip(flat.split(_BLOCK), out.split(_BLOCK), strict=True):
            target.copy_(self._block(part))
        return out.view(*rows.shape[:-1], -1)

    def _block(self, rows: torch.Tensor) -> torch.Tensor:
        codes, step, low = round_rows(rows)
        out: torch.Tensor = torch.ops.onednn.qlinear_pointwise(
            codes, 1.0, 0, self.weight, self.scales, self.zeros, None, 1.0, 0, torch.float32, "none", [], ""
        )
        out.mul_(step).add_(low * self.sums)  # not addcmul, whose last bit can depend on where a row lies
        if self.bias is not None:
            out.add_(self.bias)
        return F.gelu(out) if self._gelu else out


def _round_weight(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return int8 (O, I), and the float32 (O,) that brings each row back."""
    weight = weight.detach().float()
    scales = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
    return (weight / scales[:, None]).round().to(torch.int8), scales


def round_rows(rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return uint8 codes (T, I), and float32 (T, 1) twice: the size of a step, and what code 0 stands for.

    The step of a row that is not finite is NaN.
    """
    rows = rows.float()
    low, high = rows.aminmax(dim=-1, keepdim=True)
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / _LEVELS).clamp(min=1e-12)
    step.masked_fill_(~step.isfinite(), torch.nan)
    return (rows - low).mul_(1 / step).add_(0.5).to(torch.uint8), step, low


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
    (weight, scales), (codes, step, low) = _round_weight(linear.weight), round_rows(probe)
    expected = F.linear(codes.float() * step + low, weight * scales[:, None], made.bias)
    if not _agree(expected, made(probe), _TOLERANCE[torch.float32]):
        raise RuntimeError("this processor multiplies int8 wrongly")  # without VNNI sums of products may overflow
    return made


def _probe(width: int, dtype: torch.dtype) -> torch.Tensor:
    places = torch.arange(3 * width, dtype=torch.float32, device="cpu")
    return torch.sin(places**2 * 12.9898).to(dtype).view(3, -1)  # like noise: nothing cancels out


def _agree(expected: torch.Tensor, found: torch.Tensor, tolerance: float) -> bool:
    limit = tolerance * expected.abs().max().clamp(min=1e-6)
    return bool((expected - found).abs().max() <= limit)
