"""The dense layer after pooling, in float32 whatever the body computes in.

Axes: R rows, I inputs, O outputs.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import nn


class DenseLayer(nn.Module):
    """A linear layer of fixed weights, float32 (O, I) and (O,) or None, and tanh if that is asked for."""

    def __init__(self, weight: np.ndarray, bias: np.ndarray | None, *, tanh: bool) -> None:
        super().__init__()
        outputs, inputs = weight.shape
        self.linear = nn.Linear(inputs, outputs, bias=bias is not None, device="meta")
        self.linear.weight = nn.Parameter(torch.from_numpy(weight), requires_grad=False)
        if bias is not None:
            self.linear.bias = nn.Parameter(torch.from_numpy(bias), requires_grad=False)
        self.activation: nn.Module = nn.Tanh() if tanh else nn.Identity()

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        """Return float32 (R, O) for float32 (R, I)."""
        out: torch.Tensor = self.activation(self.linear(rows))
        return out
