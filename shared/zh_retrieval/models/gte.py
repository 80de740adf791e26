"""GTE (multilingual base): post-norm BERT with rotary positions and a gated feed-forward.

Source: Alibaba-NLP/new-impl, modeling.py; parameter names are upstream's.
Axes: T tokens of the packed row, H hidden, N heads, D head size, I feed-forward size.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from zh_retrieval.layers.attention import packed_attention
from zh_retrieval.layers.packing import Layout
from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.models.gte_config import gte_sizes
from zh_retrieval.models.labels import count_labels


class GteConfig(PretrainedConfig):
    """The sizes in config.json; no code that it names is loaded."""

    model_type = "zh_gte"

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float
    frequencies: list[float]


class _Embeddings(nn.Module):
    def __init__(self, config: GteConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        if config.type_vocab_size:
            self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.typed = config.type_vocab_size > 0
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor, token_type_ids: torch.Tensor | None) -> torch.Tensor:
        hidden = self.word_embeddings(input_ids)  # (1, T, H)
        if self.typed:
            types = self.token_type_embeddings
            hidden = hidden + (types.weight[0] if token_type_ids is None else types(token_type_ids))
        normed: torch.Tensor = self.LayerNorm(hidden)
        return normed


class _Attention(nn.Module):
    is_causal = False

    def __init__(self, config: GteConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.qkv_proj = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.o_proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], packed: Layout) -> torch.Tensor:
        parts = self.qkv_proj(hidden).unflatten(-1, (3, self.heads, -1)).unbind(2)  # (1, T, N, D) each
        q, k, v = (part.transpose(1, 2) for part in parts)
        seen, _ = packed_attention(self, _rotated(q, rope), _rotated(k, rope), v, None, packed=packed)
        out: torch.Tensor = self.o_proj(seen.flatten(2))
        return out


class _FeedForward(nn.Module):
    def __init__(self, config: GteConfig) -> None:
        super().__init__()
        self.up_gate_proj = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        value, gate = self.up_gate_proj(hidden).chunk(2, dim=-1)  # (1, T, I) each; exact GELU on the second half
        out: torch.Tensor = self.down_proj(F.gelu(gate).mul_(value))
        return out


class _Layer(nn.Module):
    def __init__(self, config: GteConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.mlp = _FeedForward(config)
        self.attn_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp_ln = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, hidden: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor], packed: Layout) -> torch.Tensor:
        attended = self.attn_ln(hidden + self.attention(hidden, rope, packed))
        result: torch.Tensor = self.mlp_ln(attended + self.mlp(attended))
        return result


class _Encoder(nn.Module):
    def __init__(self, config: GteConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])


class _Pooler(nn.Module):
    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.dense = nn.Linear(hidden, hidden)

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.dense(hidden[:, 0]))


class ZhGteModel(PreTrainedModel):
    """The body: token ids to the last hidden states; with `labels`, a cross-encoder's head beside it.

    Attributes:
        frequencies: Radians per position, float32 (D / 2,); laid once the weights are loaded (`gte`), since what is no
            weight would be lost before.
    """

    frequencies: torch.Tensor
    config_class = GteConfig
    base_model_prefix = "new"
    _supports_attention_backend = True
    _keys_to_ignore_on_load_unexpected = [r"^classifier\."]  # noqa: RUF012  # an embedder's sparse side: `sparse_head`

    def __init__(self, config: GteConfig, labels: int = 0) -> None:
        super().__init__(config)
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        if labels:
            self.pooler: _Pooler | None = _Pooler(config.hidden_size)
            self.classifier: nn.Linear | None = nn.Linear(config.hidden_size, labels)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings, (V, H)."""
        return self.embeddings.word_embeddings

    def forward(
        self,
        input_ids: torch.Tensor,
        position_ids: torch.Tensor,
        packed: Layout,
        token_type_ids: torch.Tensor | None = None,
    ) -> tuple[torch.Tensor]:
        """Return ((1, T, H),), the last hidden states of the packed row.

        Args:
            input_ids: int64 (1, T).
            position_ids: int64 (1, T), from 0 in every sequence.
            packed: Where the sequences lie.
            token_type_ids: int64 (1, T); None: all are 0.
        """
        hidden = self.embeddings(input_ids, token_type_ids)
        angles = position_ids[0, :, None] * self.frequencies.to(position_ids.device)  # (T, D / 2)
        rope = angles.cos(), angles.sin()
        for layer in self.encoder.layer:
            hidden = layer(hidden, rope, packed)
        return (hidden,)


def _rotated(x: torch.Tensor, rope: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Return heads (1, N, T, D) with their rotary positions, turned in float32."""
    cosine, sine = rope
    left, right = x.chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1).to(x.dtype)


def gte(config: dict[str, Any]) -> Plan:
    """Return the plan of a GTE embedder; raises as `gte_sizes`."""
    return _plan(config, 0)


def cross_encoder(config: dict[str, Any]) -> Plan:
    """Return the plan of a GTE cross-encoder; raises as `gte_sizes` and `count_labels`."""
    return _plan(config, count_labels(config))


def _plan(config: dict[str, Any], labels: int) -> Plan:
    parsed = GteConfig(**gte_sizes(config))

    def parts(model: Any) -> Parts:
        head = nn.Sequential(model.pooler, model.classifier) if labels else None  # (R, 1, H) to (R, labels)
        if labels:
            model.pooler = model.classifier = None
        frequencies = torch.tensor(parsed.frequencies, dtype=torch.float32, device="cpu")
        model.register_buffer("frequencies", frequencies, persistent=False)
        return Parts(model, head, parsed.hidden_size, parsed.max_position_embeddings)

    return Plan(_read_by_any_name(), parsed, parts, arguments={"labels": labels})


@lru_cache(maxsize=1)
def _read_by_any_name() -> type[ZhGteModel]:
    """Return the class, once transformers knows that names of what its own class saves begin with "gte."."""
    from transformers.conversion_mapping import register_checkpoint_conversion_mapping
    from transformers.core_model_loading import WeightRenaming

    register_checkpoint_conversion_mapping(ZhGteModel.__name__, [WeightRenaming(r"^gte\.", "")], overwrite=True)
    return ZhGteModel
