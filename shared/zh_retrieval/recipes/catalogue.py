"""The models: one frozen entry each. The only place that knows names, prompts, lengths and hub ids.

A model of a known architecture is one more entry here. Code never branches on a name; it reads the entry.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from zh_retrieval.errors import ConfigError, UnknownModelError, WrongTaskError

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


_BGE_INSTRUCTION = "为这个句子生成表示以用于检索相关文章："

MODELS: tuple[ModelSpec, ...] = (
    # BAAI model card "bge-base-zh-v1.5": CLS row, L2, the instruction on queries only.
    ModelSpec(
        name="bge-base-zh-v1.5",
        aliases=("bge-base-zh",),
        task="embedding",
        architecture="bert",
        sources=(
            Source("modelscope", "AI-ModelScope/bge-base-zh-v1.5"),
            Source("huggingface", "BAAI/bge-base-zh-v1.5", "f03589ceff5aac7111bd60cfc7d497ca17ecac65"),
        ),
        max_length=512,
        length_limit=512,
        prefix=("[CLS]",),
        suffix=("[SEP]",),
        parameters=102_267_648,
        license="MIT",
        dimension=768,
        pooling="cls",
        query_template="{instruction}{text}",
        instruction=_BGE_INSTRUCTION,
        score_range="cosine; unrelated texts often reach 0.6-0.8 (BGE FAQ): compare within one query",
        shape={
            "vocab_size": 21128,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 512,
        },
    ),
    ModelSpec(
        name="bge-large-zh-v1.5",
        aliases=("bge-large-zh",),
        task="embedding",
        architecture="bert",
        sources=(
            Source("modelscope", "Xorbits/bge-large-zh-v1.5"),
            Source("modelscope", "AI-ModelScope/bge-large-zh-v1.5"),
            Source("huggingface", "BAAI/bge-large-zh-v1.5", "79e7739b6ab944e86d6171e44d24c997fc1e0116"),
        ),
        max_length=512,
        length_limit=512,
        prefix=("[CLS]",),
        suffix=("[SEP]",),
        parameters=325_522_432,
        license="MIT",
        dimension=1024,
        pooling="cls",
        query_template="{instruction}{text}",
        instruction=_BGE_INSTRUCTION,
        score_range="cosine; unrelated texts often reach 0.6-0.8 (BGE FAQ): compare within one query",
        shape={
            "vocab_size": 21128,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 512,
        },
    ),
    # jinaai model card "jina-embeddings-v2-base-zh": mean of all rows; upstream leaves L2 to the caller.
    ModelSpec(
        name="jina-embeddings-v2-base-zh",
        aliases=("jina-base-zh",),
        task="embedding",
        architecture="jina-bert",
        sources=(
            Source("modelscope", "jinaai/jina-embeddings-v2-base-zh"),
            Source("huggingface", "jinaai/jina-embeddings-v2-base-zh"),
        ),
        max_length=8192,
        length_limit=8192,
        prefix=("<s>",),
        suffix=("</s>",),
        parameters=160_813_824,
        license="Apache-2.0",
        dimension=768,
        pooling="mean",
        score_range="cosine in [-1, 1]",
        shape={
            "vocab_size": 61056,
            "hidden_size": 768,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 3072,
            "max_position_embeddings": 8192,
        },
    ),
    # intfloat model card "e5-mistral-7b-instruct": EOS row, L2, instruction on queries only.
    ModelSpec(
        name="e5-mistral-7b-instruct",
        aliases=("e5-mistral",),
        task="embedding",
        architecture="mistral",
        sources=(
            Source("modelscope", "intfloat/e5-mistral-7b-instruct"),
            Source("huggingface", "intfloat/e5-mistral-7b-instruct", "07163b72af1488142a360786df853f237b1a3ca1"),
        ),
        max_length=4096,
        length_limit=4096,
        prefix=("<s>",),
        suffix=("</s>",),
        parameters=7_110_660_096,
        license="MIT",
        dimension=4096,
        pooling="last",
        query_template="Instruct: {instruction}\nQuery: {text}",
        instruction="Given a web search query, retrieve relevant passages that answer the query",
        score_range="cosine in [-1, 1]",
        shape={
            "vocab_size": 32000,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "intermediate_size": 14336,
            "num_key_value_heads": 8,
            "max_position_embeddings": 32768,
            "sliding_window": 4096,
        },
    ),
    # RankingGPT model card: mean log-likelihood of the query after "Document: ... Query:".
    ModelSpec(
        name="rankinggpt-qwen-7b",
        aliases=("rankinggpt",),
        task="reranking",
        architecture="qwen",
        sources=(
            Source("modelscope", "iic/RankingGPT-qwen-7b"),
            Source("modelscope", "damo/RankingGPT-qwen-7b"),
            Source("huggingface", "zyznull/RankingGPT-qwen-7b"),
        ),
        max_length=512,
        length_limit=8192,
        prefix=(),
        suffix=(),
        parameters=7_721_324_544,
        license="Apache-2.0 code, Tongyi Qianwen weights",
        query_template="{text}",
        document_template="Document: {text} Query:",
        scoring="query-likelihood",
        score_range="mean log-likelihood (natural log, at most 0): nearer 0 is better; compare within one query",
        shape={
            "vocab_size": 151936,
            "hidden_size": 4096,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "intermediate_size": 11008,
            "num_key_value_heads": 32,
            "max_position_embeddings": 8192,
        },
    ),
    # BAAI model card "bge-reranker-large": one raw logit.
    ModelSpec(
        name="bge-reranker-large",
        aliases=(),
        task="reranking",
        architecture="xlm-roberta",
        sources=(
            Source("modelscope", "quietnight/bge-reranker-large"),
            Source("modelscope", "Xorbits/bge-reranker-large"),
            Source("huggingface", "BAAI/bge-reranker-large"),
        ),
        max_length=512,
        length_limit=512,
        prefix=("<s>",),
        suffix=("</s>",),
        separator=("</s>", "</s>"),
        parameters=559_891_457,
        license="MIT",
        scoring="classification",
        score_range="raw logit, unbounded; card examples: unrelated -7, matching 5 to 8",
        shape={
            "vocab_size": 250002,
            "hidden_size": 1024,
            "num_hidden_layers": 24,
            "num_attention_heads": 16,
            "intermediate_size": 4096,
            "max_position_embeddings": 514,
            "type_vocab_size": 1,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
        },
    ),
    # intfloat/multilingual-e5-small, 4-bit blocks, vocabulary cut to Chinese and common Latin text.
    ModelSpec(
        name="e5-small-zh",
        aliases=("builtin",),
        task="embedding",
        architecture="bert",
        sources=(Source("builtin", "e5-small-zh"),),
        max_length=512,
        length_limit=512,
        prefix=("<s>",),
        suffix=("</s>",),
        parameters=37_587_072,
        license="MIT",
        dimension=384,
        pooling="mean",
        query_template="query: {text}",
        document_template="passage: {text}",
        score_range="cosine in [-1, 1]",
        shape={
            "vocab_size": 41915,
            "hidden_size": 384,
            "num_hidden_layers": 12,
            "num_attention_heads": 12,
            "intermediate_size": 1536,
            "max_position_embeddings": 512,
        },
    ),
)


def get_spec(name: str) -> ModelSpec:
    """Return the entry whose name, alias, ModelScope id or Hugging Face id equals `name`, ignoring case.

    Raises:
        UnknownModelError: No entry matches; the message holds the closest names.
    """
    if isinstance(name, ModelSpec):
        return name
    known: dict[str, ModelSpec] = {}
    for spec in MODELS:
        for key in (spec.name, *spec.aliases, *(source.id for source in spec.sources)):
            known.setdefault(key.lower(), spec)
    if isinstance(name, str) and name.strip().lower() in known:
        return known[name.strip().lower()]
    close = difflib.get_close_matches(str(name).lower(), known, n=1, cutoff=0.6)
    hint = f"Did you mean {known[close[0]].name}?" if close else f"Known: {', '.join(s.name for s in MODELS)}."
    raise UnknownModelError(f"Unknown model {name!r}. {hint} For a folder of your own pass its recipe and path=.")


def check_task(spec: ModelSpec, task: Task) -> None:
    """Raise WrongTaskError unless the model does `task`; the message names what to use instead."""
    if spec.task != task:
        use = "load_encoder or an embedding class" if spec.task == "embedding" else "load_reranker or a reranker class"
        raise WrongTaskError(f"{spec.name} does {spec.task}, not {task}. Use {use}.")
