"""The two languages of reports: which one a reader gets, and what has a name in both."""

from __future__ import annotations

import locale
import os
from collections.abc import Mapping
from typing import Literal

Language = Literal["en", "zh"]


def of_locale() -> Language:
    """Return "zh" where the environment's locale is Chinese, else "en"."""
    named = (os.environ.get(name) for name in ("LC_ALL", "LC_MESSAGES", "LANG"))
    said = next(filter(None, named), None) or locale.getlocale()[0] or ""
    return "zh" if said.lower().startswith(("zh", "chinese")) else "en"


SWEEPS: Mapping[str, tuple[str, str]] = {
    "top_k": ("How many passages to take", "取多少个段落"),
    "rerank_depth": ("How deep to rerank", "重排多少个段落"),
    "score_threshold": ("From which score on to trust", "从多少分起可信"),
    "chunk": ("Characters of a chunk", "切块的字数"),
    "weight": ("The dense side's weight", "向量一侧的权重"),
    "weight_by_halves": (
        "A weight chosen on one half of the questions, measured on the other",
        "用一半问题选权重，用另一半检验",
    ),
}
"""What `--sweep` tries."""

COLUMNS: Mapping[str, tuple[str, str]] = {
    "system": ("System", "系统"),
    "top_k": ("top_k", "top_k"),
    "recall": ("recall", "召回率"),
    "precision": ("precision", "精确率"),
    "success": ("success", "命中率"),
    "rerank_depth": ("depth", "重排深度"),
    "extra_ms": ("ms more (estimate)", "多用毫秒（估计）"),
    "score_threshold": ("threshold", "分数阈值"),
    "kept_per_query": ("kept a query", "每次保留"),
    "precision_without": ("precision without", "不设阈值的精确率"),
    "recall_without": ("recall without", "不设阈值的召回率"),
    "chunk": ("chunk", "块"),
    "index_bytes": ("index bytes", "索引字节"),
    "weight": ("weight", "权重"),
    "half_1": ("first half", "前一半"),
    "half_2": ("second half", "后一半"),
    "chosen_on": ("chosen on", "选自"),
    "measured_on": ("measured on", "检验于"),
    "gain": ("gain over the weight given", "相对给定权重的增益"),
    "low": ("95 % from", "95 % 下限"),
    "high": ("95 % to", "95 % 上限"),
}
"""Columns of what `--sweep` finds; others are measures, whose names are the same in both languages."""
