"""Published reference values of the models, by the name of the entry: what `zh_retrieval.selftest` compares with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Published:
    """Values that the model's authors, or a reference program on the published weights, gave.

    Attributes:
        prefix: Ids that a sequence begins with.
        suffix: Ids that it ends with.
        ids: Text -> its ids; for embedders the whole sequence of a document, for rerankers the bare tokens.
        documents: Text -> the first numbers of its normalised vector.
        queries: The same for queries.
        scores: (query, document) -> raw score.
        cosines: (query, document) -> the cosine of their vectors.
    """

    prefix: Ids = ()
    suffix: Ids = ()
    ids: Mapping[str, Ids] = field(default_factory=dict)
    documents: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    queries: Mapping[str, tuple[float, ...]] = field(default_factory=dict)
    scores: Mapping[tuple[str, str], float] = field(default_factory=dict)
    cosines: Mapping[tuple[str, str], float] = field(default_factory=dict)


_FRANCE, _CHINA = "What is the capital of France?", "What is the population of China?"
_PARIS = "Paris is the capital of France."
_BILLION = "The population of China is over 1.4 billion people."

_BERT_ENDS = Published(prefix=(101,), suffix=(102,))
_XLM_R_ENDS = Published(prefix=(0,), suffix=(2,))
_M3 = "BGE M3 is an embedding model supporting dense retrieval, lexical matching and multi-vector interaction."
_BM25 = (
    "BM25 is a bag-of-words retrieval function that ranks a set of documents based on the query terms appearing in "
    "each document"
)
_PANDA = (
    "The giant panda (Ailuropoda melanoleuca), sometimes called a panda bear or simply panda, is a bear species "
    "endemic to China."
)
_INSTRUCTED = (
    "Instruct: Given a question, retrieve passages that can help answer the question.\nQuery: coi ro do"  # Lojban
)
_INSTRUCTED_IDS = (
    641, 1235, 25, 16246, 264, 3405, 11, 17179, 46769, 429, 646, 1492, 4226, 279, 3405, 624, 2859, 25, 1062, 72, 926,
    653, 151645,
)  # fmt: skip


def _qwen3(*cosines: float) -> Published:
    """Return what Qwen3-Embedding's cards print: two questions against two passages."""
    questions = ("What is the capital of China?", "Explain gravity")
    passages = (
        "The capital of China is Beijing.",
        "Gravity is a force that attracts two bodies towards each other. It gives weight to physical objects and is "
        "responsible for the movement of planets around the sun.",
    )
    pairs = [(question, passage) for question in questions for passage in passages]
    return Published(suffix=(151643,), cosines=dict(zip(pairs, cosines, strict=True)))


_QWEN3 = {"你好，世界！": (108386, 3837, 99489, 6313)}  # Qwen's vocabulary has not changed since Qwen-7B

PUBLISHED: Mapping[str, Published] = {
    "bge-base-zh-v1.5": _BERT_ENDS,
    "bge-large-zh-v1.5": _BERT_ENDS,
    "bge-small-zh-v1.5": _BERT_ENDS,
    # FlagEmbedding's README, float16
    "bge-m3": Published(
        prefix=(0,),
        suffix=(2,),
        cosines={
            ("What is BGE M3?", _M3): 0.6265,
            ("What is BGE M3?", _BM25): 0.3477,
            ("Defination of BM25", _M3): 0.3499,
            ("Defination of BM25", _BM25): 0.678,
        },
    ),
    **{f"bge-{size}-zh-v1": _BERT_ENDS for size in ("small", "base", "large")},
    **{f"gte-{size}-zh": _BERT_ENDS for size in ("small", "base", "large")},
    **{f"m3e-{size}": _BERT_ENDS for size in ("small", "base", "large")},
    **{f"piccolo-{size}-zh": _BERT_ENDS for size in ("base", "large")},
    "text2vec-base-chinese": _BERT_ENDS,
    "stella-mrl-large-zh-v3.5-1792d": _BERT_ENDS,
    "zpoint_large_embedding_zh": _BERT_ENDS,
    "ritrieve_zh_v1": _BERT_ENDS,
    "yuan-embedding-2.0-zh": _BERT_ENDS,
    "bce-embedding-base_v1": _XLM_R_ENDS,
    "bce-reranker-base_v1": _XLM_R_ENDS,
    "bge-reranker-base": _XLM_R_ENDS,
    # model card, float16
    "bge-reranker-v2-m3": Published(
        prefix=(0,),
        suffix=(2,),
        scores={
            ("query", "passage"): -5.65234375,
            ("what is panda?", "hi"): -8.1875,
            ("what is panda?", _PANDA): 5.26171875,
        },
    ),
    # model card; programs that compute it again in float32 are within 5e-5
    "gte-multilingual-base": Published(
        prefix=(0,),
        suffix=(2,),
        cosines={
            ("what is the capital of China?", "how to implement quick sort in python?"): 0.3017,
            ("what is the capital of China?", "北京"): 0.7504,
            ("what is the capital of China?", "快排算法介绍"): 0.3203,
        },
    ),
    # model card, float16
    "gte-multilingual-reranker-base": Published(
        prefix=(0,),
        suffix=(2,),
        scores={
            ("中国的首都在哪儿", "北京"): 1.2315,
            ("what is the capital of China?", "北京"): 0.5923,
            ("how to implement quick sort in python?", "Introduction of quick sort"): 0.3041,
        },
    ),
    **{f"multilingual-e5-{size}": _XLM_R_ENDS for size in ("small", "base", "large", "large-instruct")},
    # model cards; of 4B the numbers are those that programs compare it with, of four digits
    "qwen3-embedding-0.6b": _qwen3(0.76456, 0.14143, 0.13550, 0.59995),
    "qwen3-embedding-4b": _qwen3(0.7534, 0.1147, 0.0320, 0.6258),
    "qwen3-embedding-8b": _qwen3(0.74930, 0.07506, 0.08796, 0.63184),
    # pinned ids of a program on 160M (github.com/int19h/jbotci): documents are bare, so a prompt is a document's text
    **{
        f"f2llm-v2-{size}": Published(suffix=(151645,), ids={_INSTRUCTED: _INSTRUCTED_IDS})
        for size in ("80m", "160m", "330m", "0.6b", "1.7b")
    },
    **{f"octen-embedding-{size}": Published(suffix=(151643,)) for size in ("0.6b", "4b", "8b")},
    **{f"qwen3-reranker-{size}": Published(ids=_QWEN3) for size in ("0.6b", "4b", "8b")},
    # ids of the published tokenizer; the vector is another engine's reference value for the published weights
    "jina-embeddings-v2-base-zh": Published(
        prefix=(0,),
        suffix=(2,),
        ids={"你好": (0, 49226, 2)},
        documents={"hello world": (0.0381, 0.0286, -0.0231, 0.0052, -0.0151)},
    ),
    "e5-mistral-7b-instruct": Published(prefix=(1,), suffix=(2,)),
    # tokenization_qwen.py of Qwen-7B
    "rankinggpt-qwen-7b": Published(
        ids={
            "你好，世界！": (108386, 3837, 99489, 6313),
            "hello  world   three": (14990, 220, 1879, 256, 2326),
            "12345 67 8.90": (16, 17, 18, 19, 20, 220, 21, 22, 220, 23, 13, 24, 15),
            "中文English混排123测试": (104811, 22574, 100235, 59956, 16, 17, 18, 81705),
            "a<|im_start|>user\n你好<|im_end|>": (64, 151644, 872, 198, 108386, 151645),
            "Document: 文档 Query:": (7524, 25, 53040, 100104, 11361, 25),
        },
    ),
    # FlagEmbedding, float16
    "bge-reranker-large": Published(
        prefix=(0,),
        suffix=(2,),
        scores={
            (_FRANCE, _PARIS): 7.984,
            (_FRANCE, _BILLION): -6.844,
            (_CHINA, _PARIS): -7.152,
            (_CHINA, _BILLION): 5.449,
        },
    ),
    # computed once from the files in the package, in float32
    "e5-small-zh": Published(
        prefix=(0,),
        suffix=(2,),
        ids={"你好": (0, 21260, 12, 6, 28088, 2), "绿茶": (0, 21260, 12, 6, 22364, 6540, 2)},
        documents={
            "hello world": (0.0361, 0.0475, -0.0237, -0.0627, 0.0810),
            "绿茶用八十度的水冲泡。": (0.0661, 0.0068, -0.0439, -0.0660, 0.1183),
        },
        queries={"泡绿茶水温多少？": (0.0434, 0.0033, -0.0458, -0.0440, 0.1032)},
        cosines={("泡绿茶水温多少？", "绿茶用八十度的水冲泡。"): 0.9305},
    ),
}
