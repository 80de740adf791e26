"""A synthetic test set from a corpus, without a language model.

A passage's title asks for its text, or its first sentence for the rest. What asks is taken out of the passage, so that
finding it is not a comparison of a text with itself. Nobody asked these questions: they tell systems that work from
systems that do not, and no more.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from zh_retrieval import checks
from zh_retrieval.chunking import sentence_spans
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.faults.duplicates import normalized
from zh_retrieval.files.utf8 import json_text
from zh_retrieval.files.whole import write_whole

Kind = Literal["title", "sentence"]
_SHORTEST, _LONGEST = 4, 60  # letters of a question
_LEFT = 30  # letters that a passage must keep
_COPIED = 8  # characters in a row that a passage may not share with its question


def make_questions(corpus: Mapping[str, Passage], *, kind: Kind, count: int = 200, seed: int = 0) -> Dataset:
    """Return a synthetic dataset: up to `count` questions, each with the one passage that it was taken from.

    kind="title": titles ask, and no passage keeps its title, those that are not asked for included, so that all are
    alike. kind="sentence": first sentences ask, and the passages they are from begin with the second. Every run of 8
    or more characters that the passage still shares with its question is taken out as well. A question that two
    passages would give is not asked. The same seed and corpus give the same questions.

    Raises:
        ConfigError: `kind` is unknown or `count` no positive whole number.
        InputError: No passage gives a question.
    """
    checks.whole_number("count", count)
    if kind not in ("title", "sentence"):
        raise ConfigError(f"kind={kind!r} is unknown. Use title or sentence.")
    found = {name: made for name, passage in corpus.items() if (made := _made(passage, kind))}
    often = Counter(normalized(question) for question, _ in found.values())
    usable = [name for name, (question, _) in found.items() if often[normalized(question)] == 1]
    if not usable:
        other = "sentence" if kind == "title" else "title"
        raise InputError(
            f"None of {len(corpus)} passages gives a question by its {kind}: {_SHORTEST} to {_LONGEST} letters, unlike "
            f"every other, with {_LEFT} letters of text beside it. Try --by {other}."
        )
    chosen = set(random.Random(seed).sample(usable, min(count, len(usable))))
    passages = {
        name: Passage(passage.text, "" if kind == "title" else passage.title) for name, passage in corpus.items()
    }
    queries: dict[str, str] = {}
    qrels: dict[str, dict[str, int]] = {}
    for name in corpus:
        if name in chosen:
            question, text = found[name]
            query = f"synthetic-{len(queries) + 1}"
            queries[query], qrels[query] = question, {name: 1}
            passages[name] = Passage(text, passages[name].title)
    return Dataset("synthetic", queries, passages, qrels, synthetic=True)


def _made(passage: Passage, kind: Kind) -> tuple[str, str] | None:
    """Return a question and what is left of the text; None if the passage gives none."""
    if kind == "title":
        question, text = passage.title.strip(), passage.text
    else:
        spans = sentence_spans(passage.text, size=1)
        if len(spans) < 2 or normalized(passage.text[slice(*spans[0])]) in normalized(passage.title):
            return None
        question, text = passage.text[slice(*spans[0])].strip(), passage.text[spans[1][0] :]
    text = _without(text, question)
    fits = _SHORTEST <= len(normalized(question)) <= _LONGEST and len(normalized(text)) >= _LEFT
    return (question, text) if fits else None


def _without(text: str, question: str) -> str:
    """Return the text without the whole question, and without runs that it shares with it."""
    size = min(_COPIED, len(question))
    if not size:
        return text
    copied = {question[start : start + size] for start in range(len(question) - size + 1)}
    gone = [False] * len(text)
    for start in range(len(text) - size + 1):
        if text[start : start + size] in copied:
            gone[start : start + size] = [True] * size
    return re.sub(r"[ \t]{2,}", " ", "".join(char for char, out in zip(text, gone, strict=True) if not out)).strip()


def write_questions(dataset: Dataset, folder: Path, how: str) -> None:
    """Write a BEIR folder that says in every question and in a README that it is synthetic.

    Args:
        dataset: What `make_questions` gave.
        folder: Where; it must not hold a dataset already.
        how: How it was made, for the README.

    Raises:
        ConfigError: Files are there already: nobody's labels are overwritten.
    """
    there = [name for name in ("corpus.jsonl", "queries.jsonl", "qrels") if (folder / name).exists()]
    if there:
        raise ConfigError(f"{folder} holds {', '.join(there)} already. Give another folder.")
    (folder / "qrels").mkdir(parents=True)
    corpus = ({"_id": name, "title": p.title, "text": p.text} for name, p in dataset.corpus.items())
    queries = ({"_id": q, "text": text, "metadata": {"synthetic": True}} for q, text in dataset.queries.items())
    judged = [f"{query}\t{name}\t{grade}\n" for query, found in dataset.qrels.items() for name, grade in found.items()]
    _write(folder / "corpus.jsonl", (json_text(row) + "\n" for row in corpus))
    _write(folder / "queries.jsonl", (json_text(row) + "\n" for row in queries))
    _write(
        folder / "README.md",
        [
            f"# SYNTHETIC questions 合成问题\n\nMade by rule, no person asked them: {how}.\n",
            "Differences between systems are hints; the values are not those of real questions.\n",
            "按规则生成，并非真人提问：系统间的差别仅供参考，数值不代表真实问题。\n",
        ],
    )
    _write(folder / "qrels" / "test.tsv", ["query-id\tcorpus-id\tscore\n", *judged])  # last: without it, it is none


def _write(path: Path, lines: Iterable[str]) -> None:
    def write(file: Path) -> None:
        with file.open("w", encoding="utf-8", newline="\n") as out:
            out.writelines(lines)

    write_whole(path, write)
