"""Questions made from a corpus, and judgements made by hand."""

import io
import json

import pytest

from tests.evaluation import tea
from tests.evaluation.fakes import ranking
from zh_retrieval.cli.main import main
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.evaluation.dataset import Passage
from zh_retrieval.evaluation.questions.labelling import Labels, pool
from zh_retrieval.evaluation.questions.making import make_questions, write_questions
from zh_retrieval.evaluation.reading.read import read_dataset

BODY = "先用少量热水温杯，再把茶叶放进去，水温不要超过八十度，每次泡两分钟就可以倒出来，可以连续泡三次。"
CORPUS = {
    f"d{n}": Passage(
        f"怎样保存第{n}号仓库里的绿茶。怎样保存第{n}号仓库里的绿茶，第{n}号绿茶的保存方法在此：{BODY}{n}",
        title=f"第{n}号绿茶的保存方法",
    )
    for n in range(20)
} | {
    "short": Passage("短", title="太短的段落标题"),
    "twin1": Passage(BODY, "同一标题"),
    "twin2": Passage(BODY, "同一标题"),
}


@pytest.mark.parametrize("kind", ["title", "sentence"])
def test_a_question_is_not_left_in_its_passage(kind):
    made = make_questions(CORPUS, kind=kind, count=12, seed=3)
    assert made.synthetic
    assert len(made.queries) == 12
    for query, grades in made.qrels.items():
        ((name, grade),) = grades.items()
        assert grade == 1
        question, text = made.queries[query], made.corpus[name].joined()
        runs = {question[start : start + 8] for start in range(len(question) - 7)}
        assert not [run for run in runs if run in text]
        assert BODY in text
        assert name.startswith("d")  # neither short, nor one of two of one title
    assert set(made.corpus) == set(CORPUS)
    if kind == "title":
        assert {passage.title for passage in made.corpus.values()} == {""}


def test_the_seed_decides_which_and_nothing_else_does():
    first, again, other = (make_questions(CORPUS, kind="title", count=5, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first.queries != other.queries


def test_a_corpus_that_gives_none_says_so():
    with pytest.raises(InputError, match=r"None of 1 passages gives a question by its title.*--by sentence"):
        make_questions({"a": Passage("没有标题的一段话。")}, kind="title")
    with pytest.raises(ConfigError, match="Use title or sentence"):
        make_questions(CORPUS, kind="words")


def test_the_files_and_the_evaluation_say_synthetic(tmp_path, capsys):
    source = tmp_path / "corpus.jsonl"
    rows = [{"_id": name, "title": p.title, "text": p.text} for name, p in CORPUS.items()]
    source.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    arguments = ["questions", str(source), "-o", str(tmp_path / "made"), "--count", "7"]
    assert main(arguments) == 0
    assert "SYNTHETIC" in capsys.readouterr().err
    data = read_dataset(tmp_path / "made")
    assert data.synthetic
    assert len(data.judged) == 7
    assert data.faults == ()
    assert "SYNTHETIC" in (tmp_path / "made" / "README.md").read_text(encoding="utf-8")
    assert not read_dataset(tea.write(tmp_path / "tea")).synthetic
    assert main(arguments) == 2
    assert "already" in capsys.readouterr().err


def test_markdown_is_a_corpus(tmp_path):
    (tmp_path / "a.md").write_text(f"# 泡绿茶的办法\n\n{BODY}\n\n# 泡红茶的办法\n\n{BODY}红茶\n", encoding="utf-8")
    assert main(["questions", str(tmp_path), "-o", str(tmp_path / "made")]) == 0
    assert list(read_dataset(tmp_path / "made").queries.values()) == ["泡绿茶的办法", "泡红茶的办法"]
    with pytest.raises(ConfigError, match="already"):
        write_questions(make_questions(CORPUS, kind="title"), tmp_path / "made", "x")


def test_the_pool_does_not_show_who_found_what():
    one, two = {"q": ranking("c", "a", "z")}, {"q": ranking("b", "c")}
    assert pool([one, two], ["q"], 2) == [("q", "a"), ("q", "b"), ("q", "c")]


def test_labels_survive_and_the_last_is_taken_back_after_a_restart(tmp_path):
    path = tmp_path / "qrels" / "labels.tsv"
    labels = Labels(path)
    for number, grade in enumerate((1, 0, 3)):
        labels.put(("q", f"d{number}"), grade)
    labels.put(("q", "d0"), 2)
    assert path.read_text(encoding="utf-8") == "query-id\tcorpus-id\tscore\nq\td1\t0\nq\td2\t3\nq\td0\t2\n"
    again = Labels(path)
    assert len(again) == 3
    assert again.undo() == ("q", "d0")
    assert ("q", "d0") not in Labels(path)
    assert [entry.name for entry in path.parent.iterdir()] == ["labels.tsv"]
    path.write_text("x\nq d 1\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"labels\.tsv:2"):
        Labels(path)


def test_labelling_by_key_goes_on_where_it_stopped(tmp_path, capsys, monkeypatch):
    folder = tea.write(tmp_path / "tea")
    (folder / "qrels.tsv").unlink()
    queries = (folder / "queries.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)[:2]
    (folder / "queries.jsonl").write_text("".join(queries), encoding="utf-8")
    arguments = ["label", str(folder), "--model", "bm25", "--depth", "3"]

    def typed(keys):
        monkeypatch.setattr("sys.stdin", io.StringIO(keys))
        assert main(arguments) == 0
        return capsys.readouterr()

    out = typed("y\nn\nu\nx\n2\nq\n")
    assert "[1/6] 绿茶几天检查一次？" in out.out
    assert "'x' is no answer" in out.out
    assert "2 judged" in out.err
    out = typed("s\n3\n1\nn\n").out
    assert "[3/6]" in out
    assert "[1/6]" not in out
    grades = read_dataset(folder).qrels
    assert [list(found.values()) for found in grades.values()] == [[1, 2], [3, 1, 0]]
    assert "5 judged" in typed("").err
