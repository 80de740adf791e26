"""Masks over the tokens of a packed row: what each token sees."""

from __future__ import annotations

import torch


def same_sequence(cu_seqlens: torch.Tensor, total: int) -> torch.Tensor:
    """Return bool (T, T): which tokens belong to one sequence, without asking the device for the lengths."""
    owner = torch.searchsorted(
        cu_seqlens, torch.arange(total, device=cu_seqlens.device, dtype=torch.int32), right=True
    )  # (T,)
    return owner[:, None] == owner[None, :]


def band(length: int, window: int, device: torch.device, before: int = 0) -> torch.Tensor:
    """Return bool (L, before + L): each token sees the last `window` tokens, itself included; `before` come first."""
    seen = torch.arange(before + length, device=device)
    distance = seen[before:, None] - seen[None, :]
    return (distance >= 0) & (distance < window)
