import pytest

import zh_retrieval
from zh_retrieval.cli.main import main
from zh_retrieval.recipes.cmteb import RERANKING, RETRIEVAL, TABLE


def test_the_published_table_needs_no_folder(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["eval", "--published"])
    assert ended.value.code == 0
    text = capsys.readouterr().out
    lines = [line.split() for line in text.splitlines()]
    assert ["bge-reranker-large", *["-"] * 9, "67.60", "37.16", "82.15", "84.18"] in lines
    assert text.count("github.com/") >= 7
    assert "parent of the built-in e5-small-zh, not its own score" in text


def test_averages_are_those_that_are_published_and_names_are_ours():
    averages = {row.model: row.average for row in TABLE if row.average is not None}
    assert averages == pytest.approx(
        {
            "bge-base-zh-v1.5": 69.49, "bge-large-zh-v1.5": 70.46, "jina-embeddings-v2-base-zh": 69.40,
            "e5-mistral-7b-instruct": 61.75, "multilingual-e5-small": 59.94,
        },
        abs=0.006,
    )  # fmt: skip
    for row in TABLE:
        assert len(row.retrieval) in (0, len(RETRIEVAL))
        assert len(row.reranking) in (0, len(RERANKING))
    ours = {row.model for row in TABLE} - {"multilingual-e5-small"}
    assert ours == {zh_retrieval.get_spec(name).name for name in ours}
