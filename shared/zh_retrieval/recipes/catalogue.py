"""The models: one frozen entry each. This folder is the only place that knows names, prompts, lengths and hub ids.

The six that the package is for and the built-in one stand here, others in `encoders`, `chinese` and `decoders`. A model
of a known architecture is one more entry. Code never branches on a name; it reads the entry.
"""

from __future__ import annotations

from zh_retrieval.recipes.chinese import CHINESE
from zh_retrieval.recipes.decoders import DECODERS, QUERY_LIKELIHOOD_RANGE, WEB_SEARCH
from zh_retrieval.recipes.encoders import BGE_INSTRUCTION, BGE_RANGE, ENCODERS
from zh_retrieval.recipes.spec import ModelSpec, Source

DEFAULT_ENCODER = "e5-small-zh"
"""What commands use where no embedding model is named: it needs no network."""
DEFAULT_BENCH = "bge-base-zh-v1.5"
DEFAULT_CROSS_ENCODER = "bge-reranker-large"
DEFAULT_LIKELIHOOD = "rankinggpt-qwen-7b"
"""The defaults of the reranker classes that are named after a family."""

SIX: tuple[ModelSpec, ...] = (
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
        languages=("zh",),
        license="MIT",
        dimension=768,
        pooling="cls",
        query_template="{instruction}{text}",
        instruction=BGE_INSTRUCTION,
        score_range=BGE_RANGE,
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
        languages=("zh",),
        license="MIT",
        dimension=1024,
        pooling="cls",
        query_template="{instruction}{text}",
        instruction=BGE_INSTRUCTION,
        score_range=BGE_RANGE,
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
        languages=("zh", "en"),
        license="Apache-2.0",
        dimension=768,
        pooling="mean",
        score_range="cosine in [-1, 1]",
        shape={
            "model_type": "bert",
            "position_embedding_type": "alibi",
            "feed_forward_type": "geglu",
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
        languages=("en",),  # its card recommends English; C-MTEB has its Chinese scores
        license="MIT",
        dimension=4096,
        pooling="last",
        query_template="Instruct: {instruction}\nQuery: {text}",
        instruction=WEB_SEARCH,
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
        architecture="causal-lm",
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
        languages=("zh", "en"),
        license="Apache-2.0 code, Tongyi Qianwen weights",
        query_template="{text}",
        document_template="Document: {text} Query:",
        scoring="query-likelihood",
        score_range=QUERY_LIKELIHOOD_RANGE,
        shape={
            "model_type": "qwen2",  # Qwen-1's sizes in the terms of the class that computes it
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
        languages=("zh", "en"),
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
            "num_labels": 1,
        },
    ),
)

BUILTIN: tuple[ModelSpec, ...] = (
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
        languages=("zh", "en"),
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

LEXICAL: tuple[ModelSpec, ...] = (
    # Lucene's CJKAnalyzer and BM25Similarity; what a store with IDF of its own (Qdrant) makes BM25 of.
    ModelSpec(
        name="bm25-zh",
        task="sparse",
        architecture="bm25",
        max_length=2**31 - 1,  # no text is cut
        license="Apache-2.0",
        score_range="BM25, unbounded: compare within one query",
    ),
)
"""What counts words, and has no weights; `get_spec` knows it, `MODELS` are those with weights."""

MODELS: tuple[ModelSpec, ...] = (*SIX, *BUILTIN, *ENCODERS, *CHINESE, *DECODERS)
"""The six first, then the built-in one, then families and successors."""
