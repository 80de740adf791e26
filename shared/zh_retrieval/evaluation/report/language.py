"""The page's two languages."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape

from zh_retrieval.evaluation.dataset import Fault
from zh_retrieval.files.utf8 import writable


def text(value: str) -> str:
    """Return a text as HTML that shows it and does nothing: texts of a corpus may hold anything."""
    shown = "".join(char if char >= " " or char in "\n\t" else "\ufffd" for char in value)
    return escape(writable(shown))


def both(english: str, chinese: str) -> str:
    """Return both languages; the page shows one. They are text, not HTML."""
    return f'<span lang="en">{text(english)}</span><span lang="zh-Hans">{text(chinese)}</span>'


def explanation(fault: Fault) -> str:
    """Return what a fault is, in both languages."""
    return both(fault.message, FAULTS.get(fault.kind, fault.message))


FAULTS: Mapping[str, str] = {
    "unreadable-line": "行无法读取（JSON 损坏、不是 UTF-8、列数不对）：已略去。",
    "no-id": "行没有 id：已略去。",
    "no-text": "行没有文本：按空文本读取。",
    "duplicate-id": "id 重复：以第一行为准，其余略去。",
    "duplicate-judgement": "同一标注重复出现，等级相同：只算一次。",
    "conflicting-judgement": "标注前后矛盾：取较高等级。",
    "bad-grade": "等级不是整数：这些标注已略去。",
    "negative-grade": "等级小于 0：按 0（错误）读取。",
    "near-duplicates": "有的段落含有正确段落至少 80 % 的文字，却没有标为正确：找到它们的系统会被算错。请补标或删去。",
    "unknown-query": "被标注的问题不在问题文件里：无法提问，不计入任何平均值。",
    "unknown-passage": "被标注的段落不在语料里：若是正确答案则谁也找不到，召回率和 nDCG 到不了 1。",
    "query-without-judgement": "问题没有标注：不提问，不计入任何平均值。",
    "query-without-answer": "问题有标注但没有一个正确答案：不计入任何平均值。",
    "equal-ids": "问题与段落的 id 相同：BEIR 的工具会删掉这类结果，这里照常计算。",
    "empty-query": "问题为空：找到什么全凭运气。",
    "empty-passage": "段落没有正文：最多靠标题被找到。",
    "duplicate-query": "问题重复：在每个平均值里算两次。",
    "duplicate-passage": "段落与前面的段落文字相同：先找到哪一个全凭运气。",
    "unjudged-top": "排在前面的段落没有标注，按错误计算：其中若有正确的，看不出来。",
    "nothing-found": "问题什么也没找到：按 0 计算。",
    "twin-above": "有文字相同却算作错误的段落排在所有正确段落之前。",
    "cut": "文本超过模型能读的长度，后面的部分没有读到。请切分，或在模型允许时调大 max_length。",
    "query-failed": "提问时出错：按 0 计算，没有悄悄略去。",
    "unknown-result": "系统返回的文档在语料里找不到对应的 id 或文本：按错误计算，仍占名次。",
}
"""What each kind of fault is, in Chinese."""
