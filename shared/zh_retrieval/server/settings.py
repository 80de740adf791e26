"""What a server is told when it starts."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zh_retrieval.base import Encoder, Reranker
from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes.spec import ModelSpec

Start = Literal["background", "complete"]

KEYS_VARIABLE = "ZH_RETRIEVAL_API_KEY"


@dataclass(frozen=True)
class Settings:
    """What to serve, and within which limits. Travels between processes: it holds names and numbers only.

    Attributes:
        models: "NAME", "NAME=FOLDER" or a recipe, each once.
        options: Options of `load_encoder` and `load_reranker`, for every model.
        keys: Whoever sends one of them is let in; () lets everybody in. In no repr.
        max_texts: Most texts, documents or pairs of a request.
        max_body_bytes: Most bytes of a request, decompressed.
        max_queue_tokens: Tokens that may wait for each model and priority before requests are refused with 429.
        cors_origins: Web pages that may ask, such as "https://app.example"; "*" is any.
        public_metrics: Whether /metrics needs no key.
        start: Whether startup ends at once, and requests get 503 until the models are loaded ("background"), or with
            the models ready ("complete"), for hosts that send requests as soon as it has ended.
        handles: Models that are loaded already, by name, beside `models`; such settings do not travel.
    """

    models: tuple[str | ModelSpec, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = field(default=(), repr=False)
    max_texts: int = 2048
    max_body_bytes: int = 32_000_000
    max_queue_tokens: int = 262_144
    cors_origins: tuple[str, ...] = ()
    public_metrics: bool = False
    start: Start = "background"
    handles: Mapping[str, Encoder | Reranker] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.models and not self.handles:
            raise ConfigError("There is no model to serve. Name one: models=(NAME,).")
        if any(not key or key != key.strip() or not key.isascii() for key in self.keys):
            raise ConfigError("A key must be ASCII text without spaces around it, and not empty.")
        for name in ("max_texts", "max_body_bytes", "max_queue_tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}, expected a positive whole number.")


def keys_of_environment() -> tuple[str, ...]:
    """Return the keys in ZH_RETRIEVAL_API_KEY, which commas part."""
    return tuple(key for key in (part.strip() for part in os.environ.get(KEYS_VARIABLE, "").split(",")) if key)
