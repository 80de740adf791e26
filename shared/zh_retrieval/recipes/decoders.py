"""Relatives of the six that are causal language models: RankingGPT on other bodies, all that stands on Qwen3."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from zh_retrieval.recipes.spec import ModelSpec, Source

_MANY = ("zh", "en", "mul")
WEB_SEARCH = "Given a web search query, retrieve relevant passages that answer the query"
"""The default instruction of E5's and Qwen3's model cards."""
QUERY_LIKELIHOOD_RANGE = "mean log-likelihood (natural log, at most 0): nearer 0 is better; compare within one query"


# RankingGPT model cards: one recipe for every body, as rankinggpt-qwen-7b.
def _ranking_gpt(
    body: str, license: str, parameters: int, limit: int, shape: dict[str, Any], languages: tuple[str, ...]
) -> ModelSpec:
    return ModelSpec(
        name=f"rankinggpt-{body}",
        task="reranking",
        architecture="causal-lm",
        sources=(
            Source("modelscope", f"iic/RankingGPT-{body}"),
            Source("modelscope", f"damo/RankingGPT-{body}"),
            Source("huggingface", f"zyznull/RankingGPT-{body}"),
        ),
        length_limit=limit,
        parameters=parameters,
        languages=languages,
        license=license,
        document_template="Document: {text} Query:",
        scoring="query-likelihood",
        score_range=QUERY_LIKELIHOOD_RANGE,
        shape=shape,
    )


def _bloom(body: str, parameters: int, hidden: int, layers: int, heads: int) -> ModelSpec:
    shape = {"model_type": "bloom", "vocab_size": 250880, "hidden_size": hidden, "n_layer": layers, "n_head": heads}
    return _ranking_gpt(body, "MIT card, BigScience RAIL weights", parameters, 2048, shape, _MANY)


_LLAMA2 = _ranking_gpt(
    "llama2-7b",
    "MIT card, Llama 2 weights",
    6_738_415_616,
    4096,
    {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "intermediate_size": 11008,
        "max_position_embeddings": 4096,
    },
    ("en",),
)


def _qwen3_shape(vocabulary: int, hidden: int, layers: int, feed_forward: int, **more: Any) -> dict[str, Any]:
    """Return the config.json of a Qwen3: heads of 128 whatever the hidden size, 8 of them for keys and values."""
    return {
        "model_type": "qwen3",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 16 if hidden < 2048 else 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "intermediate_size": feed_forward,
        "max_position_embeddings": 40960,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": 1_000_000.0},
        **more,
    }


_SIZES: dict[str, tuple[int, int, int]] = {  # hidden size, layers, feed-forward
    "0.6B": (1024, 28, 3072),
    "4B": (2560, 36, 9728),
    "8B": (4096, 36, 12288),
}


# Qwen model cards "Qwen3-Embedding-*": row of <|endoftext|>, L2, instruction on queries only.
def _qwen3_embedding(size: str, parameters: int, vocabulary: int, **more: Any) -> ModelSpec:
    return ModelSpec(
        name=f"qwen3-embedding-{size.lower()}",
        task="embedding",
        architecture="qwen3",
        sources=(
            Source("modelscope", f"Qwen/Qwen3-Embedding-{size}"),
            Source("huggingface", f"Qwen/Qwen3-Embedding-{size}"),
        ),
        max_length=8192,
        length_limit=32768,
        parameters=parameters,
        languages=_MANY,
        license="Apache-2.0",
        dimension=_SIZES[size][0],
        pooling="last",
        matryoshka=32,
        query_template="Instruct: {instruction}\nQuery:{text}",
        instruction=WEB_SEARCH,
        score_range="cosine in [-1, 1]; card examples: unrelated 0.1, matching 0.6 to 0.8",
        shape=_qwen3_shape(vocabulary, *_SIZES[size], **more),
    )


# Octen model cards "Octen-Embedding-*": Qwen3-Embedding trained further, documents bare; query prompt as mteb has it.
def _octen(size: str, parameters: int, vocabulary: int, **more: Any) -> ModelSpec:
    return replace(
        _qwen3_embedding(size, parameters, vocabulary, **more),
        name=f"octen-embedding-{size.lower()}",
        sources=(
            Source("modelscope", f"Octen/Octen-Embedding-{size}"),
            Source("huggingface", f"Octen/Octen-Embedding-{size}"),
            Source("huggingface", f"bflhc/Octen-Embedding-{size}"),
        ),
        matryoshka=None,
        score_range="cosine in [-1, 1]",
    )


# CodeFuse-Embeddings F2LLM/tokenize_data_qwen.py and utils.py: Qwen3's words and its `<|im_end|>` after each text, L2,
# prefixes of 8 numbers up are vectors; prompt, instruction and numbers of weights: mteb's catalogue. The sizes of 80M
# are those that give its number of weights. Whether ModelScope has them nobody could see: it has others of this owner.
def _f2llm(size: str, parameters: int, hidden: int, layers: int, feed_forward: int) -> ModelSpec:
    return ModelSpec(
        name=f"f2llm-v2-{size.lower()}",
        task="embedding",
        architecture="qwen3",
        sources=(
            Source("modelscope", f"codefuse-ai/F2LLM-v2-{size}"),
            Source("huggingface", f"codefuse-ai/F2LLM-v2-{size}"),
        ),
        max_length=8192,
        length_limit=40960,
        suffix=("<|im_end|>",),
        parameters=parameters,
        languages=_MANY,
        license="Apache-2.0",
        dimension=hidden,
        pooling="last",
        matryoshka=8,
        query_template="Instruct: {instruction}\nQuery: {text}",
        instruction="Given a question, retrieve passages that can help answer the question.",
        score_range="cosine in [-1, 1]",
        shape=_qwen3_shape(151936, hidden, layers, feed_forward, num_attention_heads=16),
    )


_JUDGE = (
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
    'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    "<Instruct>: {instruction}\n<Query>: {text}\n"
)


# Qwen model cards "Qwen3-Reranker-*": the next token after this conversation is "yes" or "no".
def _qwen3_reranker(size: str, parameters: int, **more: Any) -> ModelSpec:
    return ModelSpec(
        name=f"qwen3-reranker-{size.lower()}",
        task="reranking",
        architecture="causal-lm",
        sources=(
            Source("modelscope", f"Qwen/Qwen3-Reranker-{size}"),
            Source("huggingface", f"Qwen/Qwen3-Reranker-{size}"),
        ),
        max_length=8192,
        length_limit=32768,
        parameters=parameters,
        languages=_MANY,
        license="Apache-2.0",
        query_template=_JUDGE,
        document_template=("<Document>: {text}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"),
        instruction=WEB_SEARCH,
        scoring="yes-no",
        answers=("yes", "no"),
        score_range="log p(yes) - log p(no), unbounded; its sigmoid is the card's 0..1",
        shape=_qwen3_shape(151669, *_SIZES[size], **more),
    )


DECODERS: tuple[ModelSpec, ...] = (
    _qwen3_embedding("0.6B", 595_776_512, 151669, max_position_embeddings=32768),
    _qwen3_embedding("4B", 4_021_774_336, 151665),
    _qwen3_embedding("8B", 7_567_295_488, 151665, tie_word_embeddings=False),
    _octen("0.6B", 595_776_512, 151669),
    _octen("4B", 4_021_774_336, 151665),
    _octen("8B", 7_567_295_488, 151665, tie_word_embeddings=False),
    _f2llm("80M", 80_084_288, 320, 8, 2048),
    _f2llm("160M", 159_185_024, 640, 9, 1536),
    _f2llm("330M", 334_349_184, 896, 16, 2560),
    _f2llm("0.6B", 596_049_920, 1024, 28, 3072),
    _f2llm("1.7B", 1_720_574_976, 2048, 28, 6144),
    _bloom("bloom-560m", 559_214_592, 1024, 24, 16),
    _bloom("bloom-1b1", 1_065_314_304, 1536, 24, 16),
    _bloom("bloom-3b", 3_002_557_440, 2560, 30, 32),
    _bloom("bloom-7b", 7_069_016_064, 4096, 30, 32),
    _LLAMA2,
    _qwen3_reranker("0.6B", 595_776_512),
    _qwen3_reranker("4B", 4_021_784_576),
    _qwen3_reranker("8B", 8_188_548_096, tie_word_embeddings=False),
)
