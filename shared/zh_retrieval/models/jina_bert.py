"""JinaBERT (base-en / base-zh variant): post-norm BERT with symmetric ALiBi and a gated feed-forward.

Source: jinaai/jina-bert-implementation, modeling_bert.py; parameter names are upstream's.
Axes: T tokens of the packed row, H hidden, N heads, D head size, I feed-forward size.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from transformers import PretrainedConfig, PreTrainedModel

from zh_retrieval.layers.alibi import alibi_attention
from zh_retrieval.layers.packing import Layout
from zh_retrieval.models.base import Parts, Plan
from zh_retrieval.models.jina_config import jina_sizes

_ROWS = (
    2048  # tokens that a CPU sends through the feed-forward at once: its activations are eight times as wide as a token
)


class JinaBertConfig(PretrainedConfig):
    """The sizes in config.json; no code that it names is loaded."""

    model_type = "zh_jina_bert"

    vocab_size: int
    hidden_size: int
    num_hidden_layers: int
    num_attention_heads: int
    intermediate_size: int
    max_position_embeddings: int
    type_vocab_size: int
    layer_norm_eps: float


def jina_config(config: dict[str, Any]) -> JinaBertConfig:
    """Return the configuration of a JinaBERT folder; raises as `jina_sizes`."""
    return JinaBertConfig(**jina_sizes(config))


class _Embeddings(nn.Module):
    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.word_embeddings = nn.Embedding(config.vocab_size, config.hidden_size)
        self.token_type_embeddings = nn.Embedding(config.type_vocab_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        hidden: torch.Tensor = self.LayerNorm(self.word_embeddings(input_ids) + self.token_type_embeddings.weight[0])
        return hidden


class _SelfAttention(nn.Module):
    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, hidden: torch.Tensor, packed: Layout) -> torch.Tensor:
        q, k, v = (linear(hidden).unflatten(-1, (self.heads, -1)) for linear in (self.query, self.key, self.value))
        return alibi_attention(q, k, v, packed).flatten(1)  # (T, H)


class _Output(nn.Module):
    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)
        self.LayerNorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)


class _Attention(nn.Module):
    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.self = _SelfAttention(config)
        self.output = _Output(config)


class _FeedForward(nn.Module):
    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.gated_layers = nn.Linear(config.hidden_size, 2 * config.intermediate_size, bias=False)
        self.wo = nn.Linear(config.intermediate_size, config.hidden_size)
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, attended: torch.Tensor) -> torch.Tensor:
        if attended.is_cuda or attended.shape[0] <= _ROWS:
            return self._part(attended)
        return torch.cat([self._part(part) for part in attended.split(_ROWS)])

    def _part(self, attended: torch.Tensor) -> torch.Tensor:
        gate, value = self.gated_layers(attended).chunk(2, dim=-1)  # (T, I) each; exact GELU on the first half
        hidden: torch.Tensor = self.layernorm(attended + self.wo(F.gelu(gate).mul_(value)))
        return hidden


class _Layer(nn.Module):
    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.attention = _Attention(config)
        self.mlp = _FeedForward(config)

    def forward(self, hidden: torch.Tensor, packed: Layout) -> torch.Tensor:
        output = self.attention.output
        attended = output.LayerNorm(hidden + output.dense(self.attention.self(hidden, packed)))
        result: torch.Tensor = self.mlp(attended)
        return result


class _Encoder(nn.Module):
    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__()
        self.layer = nn.ModuleList([_Layer(config) for _ in range(config.num_hidden_layers)])


class JinaBertModel(PreTrainedModel):
    """The body: token ids to the last hidden states."""

    config_class = JinaBertConfig
    base_model_prefix = "bert"
    _supports_attention_backend = True

    def __init__(self, config: JinaBertConfig) -> None:
        super().__init__(config)
        self.embeddings = _Embeddings(config)
        self.encoder = _Encoder(config)
        self.post_init()  # type: ignore[no-untyped-call]

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the word embeddings, (V, H)."""
        return self.embeddings.word_embeddings

    def forward(
        self, input_ids: torch.Tensor, packed: Layout, position_ids: torch.Tensor | None = None
    ) -> tuple[torch.Tensor]:
        """Return ((1, T, H),), the last hidden states of the packed row.

        Args:
            input_ids: int64 (1, T).
            packed: Where the sequences lie.
            position_ids: Not used: ALiBi needs none.
        """
        hidden = self.embeddings(input_ids[0])  # (T, H)
        for layer in self.encoder.layer:
            hidden = layer(hidden, packed)
        return (hidden.unsqueeze(0),)


def jina_bert(config: dict[str, Any]) -> Plan:
    """Return the plan of a JinaBERT embedder.

    Raises:
        CheckpointError: As `jina_config`.
    """
    parsed = jina_config(config)

    def parts(model: Any) -> Parts:
        return Parts(model, None, parsed.hidden_size, parsed.max_position_embeddings)

    return Plan(JinaBertModel, parsed, parts)
