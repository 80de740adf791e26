"""Every kind of fault: which side it is on, whether something is lost by it, and what it means in both languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from zh_retrieval.evaluation.dataset import Fault, Where

EXAMPLES = 5
TOP = 10
"""How deep rankings are looked at for unjudged passages and twins."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What holds for every case of a kind of fault.

    Attributes:
        where: Which side it is on.
        english: What it is, what it does to the numbers, and what to do.
        chinese: The same.
        loses: True if something that was given or asked could not be used.
    """

    where: Where
    english: str
    chinese: str
    loses: bool = False


KINDS: Mapping[str, Kind] = {
    "unreadable-line": Kind(
        "files", "lines are no record (broken JSON, another encoding, a wrong number of columns): left out.",
        "行无法读取（JSON 损坏、编码不对、列数不对）：已略去。", loses=True,
    ),
    "no-pair": Kind(
        "files", "rows lack a question or a passage: left out.", "行缺少问题或段落：已略去。", loses=True,
    ),
    "no-id": Kind("files", "rows have no id: left out.", "行没有 id：已略去。", loses=True),
    "no-text": Kind("files", "rows have no text: read as empty.", "行没有文本：按空文本读取。", loses=True),
    "duplicate-id": Kind(
        "files", "ids are given again: the first row counts, the others are left out.",
        "id 重复：以第一行为准，其余略去。", loses=True,
    ),
    "duplicate-judgement": Kind(
        "qrels", "judgements are given again with the same grade: they count once.",
        "同一标注重复出现，等级相同：只算一次。",
    ),
    "conflicting-judgement": Kind(
        "qrels", "judgements contradict an earlier one: the higher grade counts.", "标注前后矛盾：取较高等级。",
        loses=True,
    ),
    "bad-grade": Kind(
        "qrels", "grades are no whole numbers: these judgements are left out.", "等级不是整数：这些标注已略去。",
        loses=True,
    ),
    "negative-grade": Kind("qrels", "grades are below 0: read as 0, wrong.", "等级小于 0：按 0（错误）读取。"),
    "unknown-query": Kind(
        "qrels", "judged queries are not in the queries: they cannot be asked and are left out of every mean.",
        "被标注的问题不在问题文件里：无法提问，不计入任何平均值。", loses=True,
    ),
    "unknown-passage": Kind(
        "qrels",
        "judgements are of passages that the corpus lacks: where they are right answers nobody can find them, and "
        "recall and nDCG cannot reach 1.",
        "被标注的段落不在语料里：若是正确答案则谁也找不到，召回率和 nDCG 到不了 1。", loses=True,
    ),
    "query-without-judgement": Kind(
        "queries", "queries have no judgement: they are not asked and are left out of every mean.",
        "问题没有标注：不提问，不计入任何平均值。", loses=True,
    ),
    "query-without-answer": Kind(
        "queries", "queries have judgements and no right answer among them: they are left out of every mean.",
        "问题有标注但没有一个正确答案：不计入任何平均值。", loses=True,
    ),
    "equal-ids": Kind(
        "queries", "ids are those of a query and of a passage: BEIR's tools delete such results, here they count.",
        "问题与段落的 id 相同：BEIR 的工具会删掉这类结果，这里照常计算。",
    ),
    "empty-query": Kind(
        "queries", "queries are empty: what is found for them is chance.", "问题为空：找到什么全凭运气。",
    ),
    "empty-passage": Kind(
        "corpus", "passages have no text: they can be found by their title at most.",
        "段落没有正文：最多靠标题被找到。",
    ),
    "duplicate-query": Kind(
        "queries", "queries are asked twice: they count twice in every mean.", "问题重复：在每个平均值里算两次。",
    ),
    "duplicate-passage": Kind(
        "corpus", "passages have the text of an earlier one: which of them is found first is chance.",
        "段落与前面的段落文字相同：先找到哪一个全凭运气。",
    ),
    "other-script": Kind(
        "corpus",
        "passages are in the other Chinese script than most questions (simplified, traditional): BM25 and the words "
        "of a hybrid miss them, and a model finds them if it was trained on both. Convert one side (OpenCC does).",
        "段落与多数问题的简繁不同：BM25 和混合检索的词对不上，模型则要看训练时是否见过两种字。"
        "请统一简繁（如用 OpenCC）。",
    ),
    "near-duplicates": Kind(
        "corpus",
        "queries have unjudged passages with at least 80 % of a right passage's text, which count as wrong. One that "
        "holds all of it answers as well: judge it right. One that differs, in a name or a number, may be another "
        "answer: look, and judge it right or wrong.",
        "有的未标注段落含有正确段落至少 80 % 的文字，按错误计算。完整含有（holds）的同样是答案：请标为正确。"
        "有差异（differs）的，差一个名称或数字就可能是另一个答案：请查看后标为正确或错误。",
    ),
    "unjudged-top": Kind(
        "system",
        f"passages in the top {TOP} are unjudged and count as wrong: a right one among them is not seen.",
        f"前 {TOP} 个结果中有未标注的段落，按错误计算：其中若有正确的，看不出来。",
    ),
    "nothing-found": Kind("system", "queries found nothing: they count 0.", "问题什么也没找到：按 0 计算。"),
    "twin-above": Kind(
        "system",
        "queries have a passage above every right one that holds the whole text of a right one and counts as wrong.",
        "有完整含有正确段落文字却算作错误的段落排在所有正确段落之前。",
    ),
    "cut": Kind(
        "system",
        "{what} are longer than the {limit} tokens that the model reads: half of them lose {half} tokens or more, the "
        "longest {most}. Split them into chunks, or raise max_length if the model can.",
        "文本超过模型能读的 {limit} 个 token：其中一半至少少读 {half} 个，最长的少读 {most} 个。"
        "请切分，或在模型允许时调大 max_length。",
    ),
    "query-failed": Kind(
        "system", "queries failed: they count 0, and are not left out of any mean. Mend them and run again.",
        "提问时出错：按 0 计算，没有悄悄略去。请修好后再运行。", loses=True,
    ),
    "unknown-result": Kind(
        "system",
        "results are of no passage of the corpus, by id or by text: they count as wrong. Index the same corpus with "
        "its ids, or say with identify= which passage a result is of.",
        "系统返回的文档在语料里找不到对应的 id 或文本：按错误计算，仍占名次。"
        "请用同一语料及其 id 建索引，或用 identify= 说明。",
        loses=True,
    ),
    "doubtful-result": Kind(
        "system",
        "results have the id of a passage and another text: the id may be a row number of the store. Say with "
        "identify= which passage a result is of.",
        "返回的文档带有某段落的 id，文字却不同：这个 id 可能只是存储的行号。请用 identify= 说明它属于哪个段落。",
    ),
    "short-rankings": Kind(
        "system",
        "queries found fewer than {wanted} passages, {most} at most: measures that look deeper see no more. Let the "
        "chain find more (k=, similarity_top_k=).",
        "每个问题找到的段落都不到 {wanted} 个，最多 {most} 个：看得更深的指标也只看到这些。"
        "请让检索器多返回一些（k=、similarity_top_k=）。",
    ),
}  # fmt: skip


def fault(kind: str, places: Sequence[str], total: int, **facts: object) -> Iterator[Fault]:
    """Yield a fault with the first examples of what was found, if anything was; `facts` stand in its words."""
    if places:
        known = KINDS[kind]
        english, chinese = (text.format(**facts) if facts else text for text in (known.english, known.chinese))
        yield Fault(kind, known.where, len(places), total, tuple(places[:EXAMPLES]), english, chinese, known.loses)
