"""A body compiled by torch: elementwise work joins the kernels around it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from zh_retrieval.errors import ConfigError
from zh_retrieval.layers.memory import is_out_of_memory


class Compiled(nn.Module):
    """Compiles a body when first called, for rows of any length.

    Attention stays an operator of its own (`attention`, `alibi`), so that other lengths need no other code.
    """

    def __init__(self, body: nn.Module, backend: str | Callable[..., Any] = "inductor") -> None:
        super().__init__()
        self._compiled: Any = torch.compile(body, dynamic=True, backend=backend)

    def forward(self, **inputs: Any) -> Any:
        """Return what the body returns.

        Raises:
            ConfigError: It cannot be compiled on this machine.
        """
        from torch._dynamo.exc import TorchDynamoException
        from torch._inductor.exc import InductorError

        try:
            return self._compiled(**inputs)
        except (TorchDynamoException, InductorError) as error:
            if is_out_of_memory(error):  # while kernels were tried out; a smaller batch may fit
                raise
            raise ConfigError(f"compile=True does not work with torch {torch.__version__} here: {error}") from error
