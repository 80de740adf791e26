"""What a recipe says of a model, and what it makes of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from zh_retrieval.errors import ConfigError

Task = Literal["embedding", "reranking"]
Architecture = Literal["bert", "xlm-roberta", "jina-bert", "mistral", "qwen"]
Pooling = Literal["cls", "mean", "last"]
Scoring = Literal["classification", "query-likelihood"]
Hub = Literal["modelscope", "huggingface", "builtin"]


@dataclass(frozen=True, slots=True)
class Source:
    """A place that holds the weights: the hub, the repository id there, and the revision the recipe was tested on."""

    hub: Hub
    id: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The recipe of one model.

    Attributes:
        name: The canonical name.
        aliases: Shorter names that `get_spec` also takes.
        task: "embedding" or "reranking".
        architecture: Which model body reads the checkpoint.
        sources: Where the weights are, tried in this order.
        max_length: Default limit of one sequence, in tokens, special tokens included.
        length_limit: The most tokens the body can take; `max_length` may be raised up to it.
        prefix: Special tokens put before the text, by their vocabulary name.
        suffix: Special tokens put after the text, by their vocabulary name.
        separator: Special tokens between query and document of a cross-encoder pair.
        parameters: Number of weights, all of them.
        license: SPDX id or the name of the licence.
        dimension: Length of a vector; None for rerankers.
        pooling: Which rows become the vector: the first ("cls"), the last ("last") or the mean of all.
        query_template: What a query becomes; `{text}` is the query, `{instruction}` the instruction.
        document_template: What a document becomes.
        instruction: The default instruction of queries.
        scoring: How a reranker scores a pair; None for embedders.
        score_range: What scores look like, for choosing a threshold.
        shape: The sizes in the published config.json; `bench --random` builds a model from them.
    """

    name: str
    aliases: tuple[str, ...]
    task: Task
    architecture: Architecture
    sources: tuple[Source, ...]
    max_length: int
    length_limit: int
    prefix: tuple[str, ...]
    suffix: tuple[str, ...]
    parameters: int
    license: str
    separator: tuple[str, ...] = ()
    dimension: int | None = None
    pooling: Pooling | None = None
    query_template: str = "{text}"
    document_template: str = "{text}"
    instruction: str | None = None
    scoring: Scoring | None = None
    score_range: str = ""
    shape: Mapping[str, int] = field(default_factory=dict, compare=False)

    @property
    def takes_instruction(self) -> bool:
        """Return True if queries carry an instruction that the caller may replace."""
        return "{instruction}" in self.query_template

    def format_query(self, text: str, instruction: str | None = None) -> str:
        """Return the text the model sees for a query.

        `instruction=None` means the model's own; "" means none at all: the query goes in bare.

        Raises:
            ConfigError: The model takes no instruction and one was given.
        """
        if not self.takes_instruction:
            if instruction is not None:
                raise ConfigError(f"{self.name} takes no instruction, got {instruction!r}. Leave instruction out.")
            return self.query_template.replace("{text}", text)
        chosen = self.instruction if instruction is None else instruction
        if not chosen:
            return text
        head, tail = self.query_template.split("{text}")
        return head.replace("{instruction}", chosen) + text + tail

    def format_document(self, text: str) -> str:
        """Return the text the model sees for a document."""
        return self.document_template.replace("{text}", text)
