"""The demo corpus keeps its own rules."""

import json
from pathlib import Path

from zh_retrieval.cli.commands import demo

FOLDER = Path(demo.__file__).parents[2] / "builtin" / "demo"


def rows(name):
    return [json.loads(line) for line in (FOLDER / name).read_text(encoding="utf-8").splitlines()]


def test_passages_are_many_different_and_of_reading_length():
    passages = rows("corpus.jsonl")
    assert len(passages) >= 80
    assert len({row["id"] for row in passages}) == len({row["text"] for row in passages}) == len(passages)
    assert all(100 <= len(row["text"]) <= 400 and row["title"] for row in passages)
    assert all(row["text"] == row["text"].strip() and "\n" not in row["text"] for row in passages)
    assert sum(any("a" <= char.lower() <= "z" for char in row["text"]) for row in passages) >= 20


def test_every_question_has_one_right_passage_and_its_own_words():
    passages = {row["id"]: row["text"] for row in rows("corpus.jsonl")}
    questions = rows("questions.jsonl")
    assert len(questions) >= 60
    assert len({row["answer"] for row in questions}) == len({row["text"] for row in questions}) == len(questions)
    assert all(row["answer"] in passages and row["text"] not in passages[row["answer"]] for row in questions)
