"""Hard negatives: what is left out, by whom it is judged, and what trainers read."""

import json

import pytest

from tests.evaluation import tea
from tests.evaluation.fakes import Written
from tests.tiny_models import tiny_xlmr_reranker
from zh_retrieval.cli.main import main
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Dataset, Passage
from zh_retrieval.evaluation.negatives.mining import Pool, Rules, mine
from zh_retrieval.evaluation.reading.read import read_dataset

LONG = "绿茶要用八十度左右的水来冲泡，每一百五十毫升的水放三克茶叶，浸泡一到两分钟以后就可以出汤。"
CORPUS = {
    "right": Passage(LONG), "copy": Passage(LONG + "谢谢。"), "near": Passage("红茶要用九十五度的水。"),
    "hard": Passage("乌龙茶要用一百度的水。"), "same": Passage("乌龙茶，要用一百度的水！"),
    "easy": Passage("自行车每年检查一次。"), "wrong": Passage("绿茶要用冰水。"),
}  # fmt: skip
DATA = Dataset("t", {"q": "绿茶用多少度的水？"}, CORPUS, {"q": {"right": 1, "wrong": 0}})
SCORES = {"q": {"right": 0.9, "copy": 0.89, "near": 0.85, "hard": 0.8, "same": 0.8, "easy": 0.1, "wrong": 0.95}}


def test_copies_and_what_may_be_right_are_left_out_and_what_is_judged_wrong_stays():
    (example,) = mine(DATA, SCORES, Rules(margin=0.1)).examples
    assert list(example.negatives) == ["wrong", "same", "easy"]  # 0.82 is a tenth of the way; of equal texts one
    mined = mine(DATA, SCORES, Rules(margin=0.01))
    assert list(mined.examples[0].negatives) == ["wrong", "near", "same", "easy"]
    assert (mined.near_duplicates, mined.too_close, mined.without) == (2, 0, ())
    assert mine(DATA, SCORES, Rules(margin=0.1)).too_close == 1
    (few,) = mine(DATA, SCORES, Rules(number=2)).examples
    assert list(few.negatives) == ["wrong", "same"]  # what a person judged, then the hardest


def test_the_margin_is_of_the_range_of_scores_not_of_their_size():
    def moved(score):
        return 5 * score - 20

    scores = {"q": {name: moved(score) for name, score in SCORES["q"].items()}}
    (example,) = mine(DATA, scores, Rules()).examples
    assert list(example.negatives) == list(mine(DATA, SCORES, Rules()).examples[0].negatives)


def test_scores_that_are_none_and_judges_that_find_nothing():
    nan = {"q": {"right": 0.9, "near": float("nan"), "easy": 0.1}}
    assert list(mine(DATA, nan, Rules()).examples[0].negatives) == ["easy"]
    with pytest.raises(InputError, match=r"None of 1 questions has a negative: 1 candidates.*smaller --margin"):
        mine(DATA, {"q": {"right": 0.2, "near": 0.9}}, Rules())
    for rules in ({"margin": 1.0}, {"margin": -0.1}, {"margin": float("nan")}, {"number": 0}):
        with pytest.raises(ConfigError, match=r"margin=|number="):
            Rules(**rules)


def test_a_pool_has_both_sides_and_what_is_judged():
    sides = [Written("a", {"q": ["near", "hard", "easy"]}), Written("b", {"q": ["hard", "copy"]})]
    found = Pool.whole(DATA).run(Pool(sides, 2)).rankings["q"].ids
    assert found == ("copy", "hard", "near", "right", "wrong")


def test_the_command_writes_what_trainers_read_whole_and_goes_on(tmp_path, capsys):
    folder = tea.write(tmp_path / "tea")
    out, cache = tmp_path / "made" / "train.jsonl", str(tmp_path / "cache")
    arguments = ["negatives", str(folder), "-o", str(out), "--cache", cache, "--number", "2", "--depth", "20"]
    assert main(arguments) == 0
    said = capsys.readouterr().err
    assert "10 of 10 questions have negatives, 10 rows" in said
    assert "a reranker judges better" in said
    assert "evaluate on other questions" in said
    data = read_dataset(folder)
    texts = {passage.joined(): name for name, passage in data.corpus.items()}
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    for (query, grades), row in zip(data.qrels.items(), rows, strict=True):
        assert set(row) == {"query", "pos", "neg", "pos_scores", "neg_scores"}
        assert row["query"] == data.queries[query]
        assert {texts[text] for text in row["pos"]} == set(grades)
        assert not {texts[text] for text in row["neg"]} & set(grades)
        assert len(row["neg"]) == len(row["neg_scores"]) == 2
        assert max(row["neg_scores"]) < min(row["pos_scores"])
    assert main([*arguments, "--format", "sentence-transformers"]) == 0
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert len(rows) == 10 * 5 * 2
    assert set(rows[0]) == {"anchor", "positive", "negative"}
    assert [entry.name for entry in out.parent.iterdir()] == ["train.jsonl"]
    before = out.read_bytes()
    assert main([*arguments, "--margin", "1.5"]) == 2
    assert main([*arguments, "--model", "bm25"]) == 2
    assert out.read_bytes() == before


@pytest.mark.slow
def test_a_reranker_judges_from_0_to_1_and_scores_nothing_twice(tmp_path, capsys):
    pytest.importorskip("transformers")
    folder, out, cache = tea.write(tmp_path / "tea"), tmp_path / "train.jsonl", tmp_path / "cache"
    judge = f"bge-reranker-base={tiny_xlmr_reranker(tmp_path / 'judge')}"
    arguments = ["negatives", str(folder), "-o", str(out), "--cache", str(cache), "--depth", "12"]
    arguments += ["--margin", "0.1", "--reranker", judge]
    assert main(arguments) == 0
    assert "judged by bge-reranker-base" in capsys.readouterr().err
    rows = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()]
    assert all(0 <= score <= 1 for row in rows for score in row["pos_scores"] + row["neg_scores"])
    kept = {file: file.stat().st_mtime_ns for file in cache.rglob("*") if file.is_file()}
    assert main([*arguments, "--margin", "0"]) == 0
    assert {file: file.stat().st_mtime_ns for file in cache.rglob("*") if file.is_file()} == kept
    assert len(out.read_text(encoding="utf-8").splitlines()) >= len(rows)
    assert main([*arguments[:-1], "e5-small-zh"]) == 2
    assert "Give it with --model" in capsys.readouterr().err


def test_training_takes_the_split_train_and_eval_does_not_miss_the_other(tmp_path):
    folder = tea.write(tmp_path / "tea")
    header, *rows = (folder / "qrels.tsv").read_text(encoding="utf-8").splitlines(keepends=True)
    (folder / "qrels.tsv").unlink()
    (folder / "qrels").mkdir()
    for split, kept in {"train": rows[:15], "test": rows[15:]}.items():
        (folder / "qrels" / f"{split}.tsv").write_text(header + "".join(kept), encoding="utf-8")
    train = read_dataset(folder, preferred=("train",))
    assert (train.split, len(train.queries), len(train.judged)) == ("train", 3, 3)
    data = read_dataset(folder)
    assert (data.split, len(data.queries), len(data.judged)) == ("test", 7, 7)
    assert len(read_dataset(folder, split="all").judged) == 10
