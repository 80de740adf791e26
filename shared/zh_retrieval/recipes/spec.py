"""What a recipe says of a model, and what it makes of a text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass, field
from typing import Any, Literal

from zh_retrieval.errors import ConfigError
from zh_retrieval.recipes import rules

Task = Literal["embedding", "reranking", "sparse"]
Architecture = Literal["bert", "xlm-roberta", "jina-bert", "gte", "mistral", "qwen3", "causal-lm", "bm25"]
Pooling = Literal["cls", "mean", "last"]
Scoring = Literal["classification", "query-likelihood", "yes-no"]
Sparse = Literal["token-weights"]
Hub = Literal["modelscope", "huggingface", "builtin"]

_USUAL: Any = None  # what a field is before `__post_init__` puts in what is usual for the architecture


@dataclass(frozen=True, slots=True)
class Source:
    """A place that holds the weights: the hub, the repository id there, and the revision the recipe was tested on."""

    hub: Hub
    id: str
    revision: str | None = None


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """The recipe of one model. `register_model` makes its name one like any other.

    An embedder needs `name`, `task`, `architecture`, `dimension` and `pooling`; a reranker `name`, `task`,
    `architecture` and `scoring`. A fine-tuned copy of a known model is
    `dataclasses.replace(get_spec("bge-base-zh"), name="mine", aliases=(), sources=())`.

    Attributes:
        name: The canonical name.
        task: "embedding" or "reranking"; "sparse" where nothing but words is read (BM25).
        architecture: Which model body reads the checkpoint; "causal-lm" is any that transformers has.
        aliases: Shorter names that `get_spec` also takes.
        sources: Where the weights are, tried in this order; () demands `path=`.
        max_length: Default limit of one sequence, in tokens, special tokens included.
        length_limit: The most tokens the body can take; `max_length` may be raised up to it. Usually `max_length`.
        prefix: Special tokens put before the text, by their vocabulary name. Usually those of the architecture.
        suffix: Special tokens put after the text, by their vocabulary name. Usually those of the architecture.
        separator: Special tokens between query and document of a cross-encoder pair. Usually the architecture's.
        parameters: Number of weights, all of them; None if nobody counted.
        languages: What it was trained to retrieve, by ISO 639: "zh", "en", "mul" for many more; () if nobody says.
        license: SPDX id or the name of the licence; "" if unknown.
        dimension: Length of a vector; None for rerankers.
        pooling: Which rows become the vector: the first ("cls"), the last ("last") or the mean of all.
        dense: True if a dense layer follows the pooling; its weights are in the folder, and one without is refused.
        matryoshka: The shortest prefix of a vector that is itself a vector; None if it was not trained for that.
        sparse: How an embedder gives a sparse vector, too: "token-weights" is the largest weight of each token id, by a
            linear layer of its own (bge-m3, gte-multilingual-base); None: it gives none.
        query_template: What a query becomes; `{text}` is the query, `{instruction}` the instruction.
        document_template: What a document becomes. Scoring "yes-no" reads query and document as one text.
        instruction: The default instruction of queries.
        scoring: How a reranker scores a pair; None for embedders.
        answers: The two tokens that scoring "yes-no" compares, by their vocabulary name: the one for a match first.
        notice: What a user must know before he uses the model; said once, when it is first loaded.
        score_range: What scores look like, for choosing a threshold.
        shape: What config.json says of sizes; `bench --random` builds a model from it.

    Raises:
        ConfigError: On construction, if fields are missing or contradict each other; the message says which.
    """

    name: str
    _: KW_ONLY
    task: Task
    architecture: Architecture
    aliases: tuple[str, ...] = ()
    sources: tuple[Source, ...] = ()
    max_length: int = 512
    length_limit: int = _USUAL
    prefix: tuple[str, ...] = _USUAL
    suffix: tuple[str, ...] = _USUAL
    separator: tuple[str, ...] = _USUAL
    parameters: int | None = None
    languages: tuple[str, ...] = ()
    license: str = ""
    dimension: int | None = None
    pooling: Pooling | None = None
    dense: bool = False
    matryoshka: int | None = None
    sparse: Sparse | None = None
    query_template: str = "{text}"
    document_template: str = "{text}"
    instruction: str | None = None
    scoring: Scoring | None = None
    answers: tuple[str, ...] = ()
    notice: str = ""
    score_range: str = ""
    shape: Mapping[str, Any] = field(default_factory=dict, compare=False)

    def __post_init__(self) -> None:
        for name, value in rules.usual(self).items():
            if getattr(self, name) is None:
                object.__setattr__(self, name, value)
        rules.check(self)

    @property
    def takes_instruction(self) -> bool:
        """Return True if queries carry an instruction that the caller may replace."""
        return "{instruction}" in self.query_template

    @property
    def gives_sparse(self) -> bool:
        """Return True if `load_sparse_encoder` takes it."""
        return self.task == "sparse" or self.sparse is not None

    @property
    def typed_pairs(self) -> bool:
        """Return True if the second text of a pair has tokens of the type 1: BERT's own frame; XLM-R's has one type."""
        return self.scoring == "classification" and self.separator == ("[SEP]",)

    def format_query(self, text: str, instruction: str | None = None) -> str:
        """Return the text the model sees for a query.

        `instruction=None` means the model's own; "" means none at all: an embedder's query goes in bare.

        Raises:
            ConfigError: The model takes no instruction and one was given.
        """
        head, tail = self._around_query(instruction)
        return head + text + tail

    def format_document(self, text: str) -> str:
        """Return the text the model sees for a document."""
        return self.document_template.replace("{text}", text)

    def format_pair(self, query: str, document: str, instruction: str | None = None) -> tuple[str, int]:
        """Return query and document as the one text that a language model judges, and where the document begins.

        Raises:
            ConfigError: As `format_query`.
        """
        before, _, after = self.document_template.partition("{text}")
        head = self.format_query(query, instruction) + before
        return head + document + after, len(head)

    def _around_query(self, instruction: str | None) -> tuple[str, str]:
        head, _, tail = self.query_template.partition("{text}")
        if not self.takes_instruction:
            if instruction is not None:
                raise ConfigError(f"{self.name} takes no instruction, got {instruction!r}. Leave instruction out.")
            return head, tail
        chosen = self.instruction if instruction is None else instruction
        if not chosen and self.task == "embedding":
            return "", ""
        return head.replace("{instruction}", chosen or ""), tail.replace("{instruction}", chosen or "")
