"""`zh-retrieval eval` as users run it: twice, killed, and for other programs."""

import json
import os
import signal
import subprocess
import sys
import time

import ir_measures
import pytest

from tests.evaluation import tea
from tests.tiny_models import tiny_bert, tiny_xlmr_reranker
from zh_retrieval.cli.main import main

FLAGS = ["--device", "cpu", "--dtype", "float32"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tea.write(tmp_path_factory.mktemp("data") / "tea")


@pytest.fixture(scope="module")
def reranker(tmp_path_factory):
    path = tmp_path_factory.mktemp("reranker")
    tiny_xlmr_reranker(path)
    return f"bge-reranker-large={path}"


def evaluated(capsys, folder, cache, *more):
    assert main(["eval", str(folder), "--cache", str(cache), "--json", *FLAGS, *map(str, more)]) == 0
    return capsys.readouterr().out


def test_models_rerankers_and_bm25_in_one_table(capsys, folder, reranker, tmp_path):
    output = evaluated(
        capsys, folder, tmp_path / "cache", "--model", "e5-small-zh", "--model", "e5-small-zh,title=off",
        "--reranker", reranker, "--rerank-depth", 5, "--runs", tmp_path / "runs", "--report", tmp_path / "report.html",
    )  # fmt: skip
    found = json.loads(output)
    rows = {row["name"]: row for row in found["results"]}
    assert list(rows) == [
        "bm25", "e5-small-zh", "e5-small-zh (title=off)", "bm25 + bge-reranker-large",
        "e5-small-zh + bge-reranker-large", "e5-small-zh (title=off) + bge-reranker-large",
    ]  # fmt: skip
    assert rows["e5-small-zh"]["metrics"]["nDCG@10"] > 0.9
    for row in rows.values():
        assert {"nDCG@10", "R@10", "R@100", "RR@10", "AP", "Success@1"} <= set(row["metrics"])
        low, high = row["intervals"]["nDCG@10"]
        assert low <= row["metrics"]["nDCG@10"] <= high
        assert row["costs"]["ms_per_query"] > 0
    assert 3 + 3 <= len(found["comparisons"]) <= 3 + 3 + 5  # first stages, rerankers, and the best with every other
    assert found["conclusion"]["sentence"]
    assert found["conclusion"]["take"] in (None, *rows)
    assert all({"loses", "message_zh"} <= set(fault) for row in rows.values() for fault in row["faults"])
    assert found["dataset"] == {
        "name": "tea", "split": None, "synthetic": False, "queries": 10, "judged": 10, "passages": 50,
    }  # fmt: skip
    assert "e5-small-zh" in (tmp_path / "report.html").read_text(encoding="utf-8")
    _check_runs(tmp_path / "runs", rows)


def _check_runs(runs, rows):
    """A TREC run gives another program our numbers, and the JSONL holds them for each query."""
    measures = [ir_measures.parse_measure(name) for name in ("nDCG@10", "R@100", "AP")]
    qrels = {query: dict(grades) for query, grades in tea.dataset().qrels.items()}
    for file, row in zip(sorted(runs.glob("*.trec")), rows.values(), strict=True):
        theirs = ir_measures.calc_aggregate(measures, qrels, list(ir_measures.read_trec_run(str(file))))
        assert {str(measure): value for measure, value in theirs.items()} == pytest.approx(
            {str(measure): row["metrics"][str(measure)] for measure in measures}, abs=1e-6
        )
        lines = [json.loads(line) for line in file.with_suffix(".jsonl").read_text(encoding="utf-8").splitlines()]
        mean = sum(line["metrics"]["nDCG@10"] for line in lines) / len(lines)
        assert mean == pytest.approx(row["metrics"]["nDCG@10"], abs=1e-6)
        assert lines[0]["query"] == "绿茶几天检查一次？"


def without_costs(output):
    found = json.loads(output)
    del found["conclusion"]  # it goes by time where quality does not tell
    for row in found["results"]:
        del row["costs"]
    for comparison in found["comparisons"]:
        del comparison["sentence"], comparison["sentence_zh"], comparison["extra_ms"]
    return json.dumps(found)


@pytest.mark.slow
def test_two_runs_give_the_same_bytes_apart_from_times(capsys, folder, reranker, tmp_path):
    arguments = ("--reranker", reranker, "--rerank-depth", 5, "--sweep")
    runs = [
        evaluated(capsys, folder, tmp_path / cache, *arguments, "--runs", tmp_path / f"runs{number}")
        for number, cache in enumerate(("one", "two"))
    ]
    for row in (row for run in runs for row in json.loads(run)["sweep"]["rerank_depth"]):
        assert row["extra_ms"] is not None
    first, second = (json.loads(without_costs(run)) for run in runs)
    for found in (first, second):
        for row in found["sweep"]["rerank_depth"]:
            del row["extra_ms"]
    assert first == second
    files = sorted(path.name for path in (tmp_path / "runs0").iterdir())
    assert len(files) == 8
    for name in files:
        assert (tmp_path / "runs0" / name).read_bytes() == (tmp_path / "runs1" / name).read_bytes()


def test_the_text_says_which_difference_is_real_and_names_faults(capsys, folder, tmp_path):
    broken = tea.write(tmp_path / "broken")
    with (broken / "qrels.tsv").open("a", encoding="utf-8") as out:
        out.write("q0\tnowhere\t1\n")
    assert main(["eval", str(broken), "--cache", str(tmp_path / "cache"), *FLAGS]) == 1
    text, errors = capsys.readouterr()
    assert "exit status 1: unknown-passage (1 of 51)" in errors
    assert text.startswith(("Take ", "Nothing to choose yet: 10 questions"))
    assert "\n\nbroken: 10 questions, 50 passages\n\nsystem" in text
    assert "may be chance, with 10 questions and 1 comparison\n" in text
    assert "- unknown-passage: 1 of 51 judgements are of passages that the corpus lacks" in text
    assert "  q0: nowhere\n" in text


def test_a_wrong_name_costs_no_computing(capsys, folder, tmp_path):
    assert main(["eval", str(folder), "--cache", str(tmp_path / "c"), "--model", "e5-smal-zh"]) == 2
    assert "Did you mean e5-small-zh" in capsys.readouterr().err
    assert main(["eval", str(folder), "--cache", str(tmp_path / "c"), "--measure", "nDGC@10", "--no-bm25"]) == 2
    assert not (tmp_path / "c").exists()


@pytest.mark.parametrize(
    ("flags", "why"),
    [
        (["--report", "nowhere/r.html"], "there is no folder"), (["--report", "."], "is a folder"),
        (["--picture", "nowhere/x.svg"], "there is no folder"), (["--picture", "x.gif"], "is no picture"),
        (["--runs", "file/x"], "is a file"), (["--runs", "file"], "is a file"),
        (["--rerank-depth", "-1"], "--rerank-depth=-1 must be"), (["--rerank-depth", "0"], "--rerank-depth=0 must be"),
        (["--top-k", "0"], "--top-k=0 must be"), (["--top-k", "-5"], "--top-k=-5 must be"),
        (["--seed", "-1"], "seed=-1"),
        (["--measure", "P"], "it needs cutoff"), (["--measure", "R@200"], "Raise top_k"),
        (["--reranker", "bge-reranker-large=file", "--rerank-depth", "200"], "reranks 200 passages, and top_k=100"),
        (["--encoding", "klingon"], "is no encoding"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_said_before_anything_is_computed(capsys, tmp_path, monkeypatch, folder, flags, why):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    assert main(["eval", str(folder), "--cache", "cache", *flags]) == 2
    assert why in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["file"]


def test_short_rankings_are_measured_as_deep_as_they_are(capsys, tmp_path, folder, monkeypatch):
    monkeypatch.chdir(folder)
    arguments = [
        "eval",
        ".",
        "--model",
        "bm25",
        "--top-k",
        "5",
        "--measure",
        "MAP@5",
        "--measure",
        "P@3",
        "--cache",
        "c",
    ]
    assert main([*arguments, "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["results"]
    assert set(row["metrics"]) == {"nDCG@5", "AP@5", "Success@1", "Success@5", "P@3"}
    assert row["metrics"]["nDCG@5"] > 0.5
    assert main(arguments) == 0
    text = capsys.readouterr().out
    assert "R@100" not in text
    assert "P@3" in text
    assert "nothing to choose from" in text.splitlines()[0]


def test_a_table_of_questions_in_excels_encoding(capsys, tmp_path):
    data = tea.dataset()
    rows = [f"{data.queries[q]},{data.corpus[d].text}\n" for q, grades in data.qrels.items() for d in grades]
    (tmp_path / "qa.csv").write_bytes(("问题,答案\n" + "".join(rows)).encode("gbk"))
    arguments = ["eval", str(tmp_path / "qa.csv"), "--model", "bm25", "--cache", str(tmp_path / "c")]
    assert main(arguments) == 2
    assert "use --encoding gb18030" in capsys.readouterr().err
    assert main([*arguments, "--encoding", "gbk"]) == 0
    assert "qa: 10 questions, 50 passages" in capsys.readouterr().out


def test_other_weights_under_the_same_path_never_serve_old_vectors(capsys, tmp_path, folder):
    """Same size and times: only what is in the file tells them apart."""
    weights = tmp_path / "weights"
    tiny_bert(weights_folder(weights), seed=1)
    times = {file.name: file.stat() for file in weights.iterdir()}
    arguments = (folder, tmp_path / "cache", "--no-bm25", "--model", f"bge-base-zh={weights}")
    first, again = (json.loads(evaluated(capsys, *arguments))["results"][0]["metrics"] for _ in range(2))
    assert first == again
    tiny_bert(weights, seed=2)
    for name, status in times.items():
        assert (weights / name).stat().st_size == status.st_size
        os.utime(weights / name, ns=(status.st_atime_ns, status.st_mtime_ns))
    other = json.loads(evaluated(capsys, *arguments))["results"][0]["metrics"]
    fresh = json.loads(evaluated(capsys, folder, tmp_path / "fresh", *arguments[2:]))["results"][0]["metrics"]
    assert other == fresh != first


def weights_folder(path):
    path.mkdir()
    return path


_SLOW = """
import sys, time
from zh_retrieval.evaluation.systems import dense
dense._BLOCK = 8
from zh_retrieval.cli.main import main
import zh_retrieval.testing as testing, zh_retrieval
class Slow(testing.FakeEncoder):
    def encode_documents(self, texts, **options):
        print("block", flush=True)
        time.sleep(0.15)
        return super().encode_documents(texts, **options)
zh_retrieval.load_encoder = lambda *_, **__: Slow()
sys.exit(main(sys.argv[1:]))
"""


def started(arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-c", _SLOW, *map(str, arguments)], stdout=subprocess.PIPE, text=True, env=environment
    )


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_was(folder, tmp_path):
    arguments = ["eval", folder, "--no-bm25", "--json", "--cache"]
    killed = started([*arguments, tmp_path / "cache"])
    for _ in range(4):
        assert killed.stdout.readline() == "block\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    left = [path for path in tmp_path.rglob("*") if ".tmp" in path.name]
    assert len([*tmp_path.rglob("*.npz")]) >= 3
    start = time.perf_counter()
    resumed, _ = started([*arguments, tmp_path / "cache"]).communicate()
    whole, _ = started([*arguments, tmp_path / "other"]).communicate()
    assert time.perf_counter() - start < 60
    assert (resumed.count("block\n"), whole.count("block\n")) == (7 - 3, 7) or left
    assert without_costs(resumed.replace("block\n", "")) == without_costs(whole.replace("block\n", ""))
