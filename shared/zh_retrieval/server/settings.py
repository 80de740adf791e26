"""What a server is told when it starts."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from zh_retrieval import checks
from zh_retrieval.base import Encoder, Reranker, SparseEncoder
from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes.spec import ModelSpec

Start = Literal["background", "complete"]

_ROOT = re.compile(r"(/[A-Za-z0-9._~-]+)+")

KEYS_VARIABLE = "ZH_RETRIEVAL_API_KEY"


@dataclass(frozen=True)
class Settings:
    """What to serve, and within which limits. Travels between processes: it holds names and numbers only.

    Attributes:
        models: "NAME", "NAME=FOLDER" or a recipe, each once.
        options: Options of `load_encoder` and `load_reranker`, for every model.
        model_options: Options of one model, by the name it has in `models`; they win over `options`.
        served_model_names: What clients call a model, by the name it has in `models`; recipe and hub ids stay valid.
        keys: Whoever sends one of them is let in; () lets everybody in. In no repr.
        max_texts: Most texts, documents or pairs of a request.
        max_body_bytes: Most bytes of a request, decompressed. 2048 texts of 500 Chinese characters are 3 MB.
        max_pending_bytes: Most bytes of all requests under way together before others are refused with 429.
        max_queue_tokens: Tokens that may wait for each model and priority before requests are refused with 429.
        max_wait: Seconds: requests are refused with 429, too, when what waits before them takes longer, by the tokens
            that the model computes a second.
        stuck_after: Seconds that one forward pass may take before the model counts as stuck: not ready, and whoever
            waits for it is told so; after five times as long /livez says so, too.
        transfer_seconds: Seconds in which a request's body must have come, and an answer must have been taken.
        cors_origins: Web pages that may ask, such as "https://app.example"; "*" is any.
        public_metrics: Whether /metrics needs no key.
        root_path: Prefix of every path behind a proxy, such as "/rag"; whether the proxy takes it away or not.
        start: Whether startup ends at once, and requests get 503 until the models are loaded ("background"), or with
            the models ready ("complete"), for hosts that send requests as soon as it has ended.
        handles: Models that are loaded already, by name, beside `models`; such settings do not travel.
    """

    models: tuple[str | ModelSpec, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)
    keys: tuple[str, ...] = field(default=(), repr=False)
    max_texts: int = 2048
    max_body_bytes: int = 4_000_000
    max_pending_bytes: int = 64_000_000
    max_queue_tokens: int = 262_144
    max_wait: float = 30.0
    stuck_after: float = 60.0
    transfer_seconds: float = 60.0
    cors_origins: tuple[str, ...] = ()
    public_metrics: bool = False
    root_path: str = ""
    start: Start = "background"
    model_options: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    served_model_names: Mapping[str, str] = field(default_factory=dict)
    handles: Mapping[str, Encoder | Reranker | SparseEncoder] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        if not self.models and not self.handles:
            raise ConfigError("There is no model to serve. Name one: models=(NAME,).")
        if any(checks.secret("a key", key) != key for key in self.keys):
            raise ConfigError("A key must be printable ASCII text without spaces around it.")
        for name in ("max_texts", "max_body_bytes", "max_pending_bytes", "max_queue_tokens"):
            value = getattr(self, name)
            if type(value) is not int or value < 1:
                raise ConfigError(f"{name} is {value!r}, expected a positive whole number.")
        for name in ("max_wait", "stuck_after", "transfer_seconds"):
            checks.seconds(name, getattr(self, name))
        if self.root_path and not _ROOT.fullmatch(self.root_path):
            raise ConfigError(f"root_path is {self.root_path[:100]!r}, expected a path such as '/rag'.")
        if self.max_pending_bytes < self.max_body_bytes:
            raise ConfigError(
                f"max_pending_bytes={self.max_pending_bytes} is less than max_body_bytes={self.max_body_bytes}: large "
                "requests would never be taken. Raise it too."
            )


def keys_of_environment() -> tuple[str, ...]:
    """Return the keys in ZH_RETRIEVAL_API_KEY, which commas part; () only where it is not set, or set to nothing.

    Raises:
        ConfigError: It holds no key all the same: nobody means that everybody may ask.
    """
    said = os.environ.get(KEYS_VARIABLE, "")
    return checks.keys(KEYS_VARIABLE, said) if said else ()
