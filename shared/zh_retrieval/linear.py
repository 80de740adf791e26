"""Linear layers for the CPU: weights laid out once for oneDNN, or rounded to int8.

oneDNN's operators are private to torch (inductor's freezing uses them too), so they are probed, their result is checked
at load, and torch's own linear stays where they are missing or wrong. int8 uses torch's quantized operators directly:
weights are rounded for each output row, activations for each call, so an int8 result depends a little on its batch.
"""

from __future__ import annotations

import logging
import threading
import warnings
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import nn

from zh_retrieval.errors import ConfigError

logger = logging.getLogger(__name__)

_WARNINGS = threading.Lock()
_TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2}  # relative to the largest value of the probe


class PrepackedLinear(nn.Module):
    """A linear layer whose weight, (out, in), is kept in oneDNN's blocked layout."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach().contiguous(), None)
        self.bias = None if linear.bias is None else linear.bias.detach()
        self._after, self._variant = "none", ""

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return (..., out) for (..., in), in the dtype of the weight, after the exact GELU if it was absorbed."""
        out: torch.Tensor = torch.ops.mkldnn._linear_pointwise(
            rows.to(self.weight.dtype), self.weight, self.bias, self._after, [], self._variant
        )
        return out

    def absorb_gelu(self) -> bool:
        """Compute the exact GELU of every result from now on; False, and no change, if oneDNN does that wrongly."""
        probe = _probe(self.weight.shape[1], self.weight.dtype)
        expected = F.gelu(self(probe))
        self._after, self._variant = "gelu", "none"
        if _agree(expected, self(probe)):
            return True
        self._after, self._variant = "none", ""
        return False


class Int8Linear(nn.Module):
    """A linear layer with an int8 weight, one scale for each output row, and float32 in and out."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = linear.weight.detach().float()
        scales = weight.abs().amax(dim=1).clamp(min=1e-12).double() / 127
        zeros = torch.zeros(weight.shape[0], dtype=torch.int64)
        bias = None if linear.bias is None else linear.bias.detach().float()
        with _WARNINGS, warnings.catch_warnings():  # newer torch announces another home for these tensors
            warnings.simplefilter("ignore")
            rounded = torch.quantize_per_channel(weight, scales, zeros, 0, torch.qint8)
        self.packed = torch.ops.quantized.linear_prepack(rounded, bias)

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return float32 (..., out) for float32 (..., in)."""
        out: torch.Tensor = torch.ops.quantized.linear_dynamic(rows, self.packed, reduce_range=False)
        return out


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
        ConfigError: This build of torch has no int8 operators.
    """
    try:
        return _replace(module, Int8Linear)
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
    if not _agree(expected, found):
        logger.warning("oneDNN's prepacked linear gave another result than torch's: torch's is used.")
        return None
    return packed


def _probe(width: int, dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(-1, 1, 3 * width, dtype=dtype).view(3, -1)


def _agree(expected: torch.Tensor, found: torch.Tensor) -> bool:
    limit = _TOLERANCE[expected.dtype] * expected.abs().max().clamp(min=1e-6)
    return bool((expected - found).abs().max() <= limit)
