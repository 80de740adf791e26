"""What others measured: C-MTEB's published values of the six models, x 100, with where each is printed.

Retrieval is nDCG@10, reranking MAP. `e5-small-zh` has no row of its own: it is a 4-bit build with a cut vocabulary of
multilingual-e5-small, whose row is the parent's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

RETRIEVAL = ("T2", "MMarco", "Du", "Covid", "Cmedqa", "Ecom", "Medical", "Video")
RERANKING = ("T2-Rr", "MMarco-Rr", "CMedQAv1", "CMedQAv2")
RESULTS = "github.com/embeddings-benchmark/results @f4cc6c8"
C_MTEB = "github.com/FlagOpen/FlagEmbedding research/C_MTEB/README.md"


@dataclass(frozen=True, slots=True)
class Published:
    """Published values of one model.

    Attributes:
        model: Its name here; that of the parent for the built-in model.
        retrieval: nDCG@10 x 100, in the order of `RETRIEVAL`; () if none is published.
        reranking: MAP x 100, in the order of `RERANKING`; () if none is published.
        source: Where the values are printed, and what else must be known.
    """

    model: str
    retrieval: tuple[float, ...]
    reranking: tuple[float, ...]
    source: str

    @property
    def average(self) -> float | None:
        """Return the mean of the eight retrieval tasks."""
        return sum(self.retrieval) / len(self.retrieval) if self.retrieval else None


TABLE: tuple[Published, ...] = (
    Published(
        "bge-base-zh-v1.5", (83.71, 77.69, 85.07, 74.70, 41.61, 64.25, 56.51, 72.35), (66.49, 29.74, 80.47, 84.88),
        f"{RESULTS}, mteb 1.1.0; query instruction on retrieval and reranking, 512 tokens",
    ),
    Published(
        "bge-large-zh-v1.5", (83.99, 79.23, 86.32, 73.35, 42.57, 65.33, 59.59, 73.32), (65.74, 28.74, 83.45, 85.44),
        f"{RESULTS}, mteb 1.1.0; query instruction on retrieval and reranking, 512 tokens",
    ),
    Published(
        "jina-embeddings-v2-base-zh", (80.59, 77.96, 84.57, 81.22, 39.15, 63.95, 57.12, 70.62),
        (67.37, 31.54, 83.64, 83.74),
        "the model card; external/*.json of github.com/embeddings-benchmark/results before 198c98f",
    ),
    Published(
        "e5-mistral-7b-instruct", (80.68, 74.84, 87.04, 73.11, 34.23, 45.95, 52.83, 45.34),
        (66.90, 24.21, 76.82, 77.59), f"{RESULTS}, mteb 1.12.75, revision 07163b72",
    ),
    Published(
        "multilingual-e5-small", (71.36, 73.17, 81.36, 72.82, 24.39, 53.53, 44.84, 58.06),
        (65.24, 24.33, 63.44, 62.41),
        f"parent of the built-in e5-small-zh, not its own score: retrieval {RESULTS}; reranking {C_MTEB}",
    ),
    Published("bge-reranker-large", (), (67.60, 37.16, 82.15, 84.18), f"{C_MTEB}, line 115"),
    Published(
        "rankinggpt-qwen-7b", (), (),
        "no Chinese score is published; English, nDCG@10 over BM25's top 1000: DL19 75.8, DL20 74.3, BEIR 58.3 "
        "(README of github.com/Alibaba-NLP/RankingGPT)",
    ),
)  # fmt: skip

NOTES: Mapping[str, str] = {
    "reranking": "MAP of old results; newer mteb prints map_at_1000 there, which is another number.",
    "yours": "They say little of your data: measure with zh-retrieval eval FOLDER.",
}
