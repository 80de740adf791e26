"""The programs in the adapters' folders of examples run as they are."""

import asyncio
import os
import runpy
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from tests.contract.watching import forward_passes
from tests.tiny_models import tiny_xlmr_reranker

EXAMPLES = {
    file.stem: file
    for package in ("langchain_zh_retrieval", "llama_index_zh_retrieval")
    for file in (Path(__file__).parents[2] / package / "examples").glob("[!_]*.py")
}
NOTES = {
    "tea": "# 茶\n\n绿茶用八十度的水冲泡。\n\n红茶要用沸水。",
    "cats": "# 猫\n\n猫一天睡十几个小时。",
    "trains": "# 火车\n\n火车票在开车前可以退票。",
}
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


def as_program(name, *arguments):
    """Run an example as its own program and return the lines that it prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES[name]), *map(str, arguments)],
        capture_output=True, text=True, encoding="utf-8", check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "PYTHONUTF8": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture(params=["executed here", pytest.param("a program", marks=pytest.mark.slow)])
def run(request, monkeypatch, capsys):
    """Return a function that starts an example anew and returns the lines that it prints."""

    def here(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        runpy.run_path(str(EXAMPLES[name]), run_name="__main__")
        return capsys.readouterr().out.splitlines()

    return here if request.param == "executed here" else as_program


@pytest.fixture
def notes(tmp_path):
    """Return a function that writes the notes with an ending, and the folder."""
    folder = tmp_path / "notes"

    def write(ending):
        (folder / "deeper").mkdir(parents=True)
        for name, text in NOTES.items():
            (folder / ("deeper" if name == "cats" else "") / f"{name}.{ending}").write_text(text, encoding="utf-8")
        return folder

    return write


def test_examples_are_short_and_need_no_test_machinery():
    assert len(EXAMPLES) == 6
    for file in EXAMPLES.values():
        code = file.read_text(encoding="utf-8")
        assert "tests" not in code.replace("the tests run", ""), file
        assert len([line for line in code.splitlines() if line.strip()]) < 60, file


def test_markdown_rag_embeds_only_what_is_new(notes, run, tmp_path, capsys):
    from langchain_zh_retrieval.examples.markdown_rag import main

    folder, index = notes("md"), tmp_path / "index"
    main(str(folder), str(index), "泡绿茶水温多少？")
    first = capsys.readouterr().out.splitlines()
    assert first[0] == "embedded: 3"
    assert first[1].startswith("sources: tea.md")
    assert first[2].startswith("answer: ")
    assert run("markdown_rag", folder, index, "泡绿茶水温多少？") == ["embedded: 0", *first[1:]]  # a new start
    (folder / "trains.md").unlink()
    (folder / "tea.md").write_text("# 茶\n\n乌龙茶用九十五度的水冲泡。", encoding="utf-8")
    main(str(folder), str(index), "泡绿茶水温多少？")
    again = capsys.readouterr().out.splitlines()
    assert again[0] == "embedded: 1"
    assert sorted(again[1].split()[1:]) == [str(Path("deeper", "cats.md")), "tea.md"]


def test_two_stages_rerank_the_candidates(run, tmp_path):
    passages = tmp_path / "passages.txt"
    passages.write_text("\n".join(line for text in NOTES.values() for line in text.split("\n\n")), encoding="utf-8")
    model = tiny_xlmr_reranker(tmp_path / "reranker")
    found = [line.split("\t") for line in run("two_stages", passages, "怎么退票？", "--reranker-path", model)]
    scores = [float(score) for score, _ in found]
    assert len(found) == 3
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)


def test_ingestion_computes_only_changed_files(notes, run, tmp_path, capsys):
    from llama_index_zh_retrieval.examples.ingestion import main

    folder, cache = notes("txt"), tmp_path / "cache"
    main(str(folder), str(cache), "火车票可以退吗？")
    first = capsys.readouterr().out.splitlines()
    assert first[0] == "computed: 6"  # three files are split and embedded
    assert "trains.txt" in first[1]
    again = run("ingestion", folder, cache, "火车票可以退吗？")  # a new start
    assert again[again[0].startswith("Loading") :] == ["computed: 0", *first[1:]]  # old LlamaIndex says what it reads
    (folder / "tea.txt").write_text("乌龙茶用九十五度的水冲泡。", encoding="utf-8")
    main(str(folder), str(cache), "乌龙茶水温多少？")
    changed = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Loading")]
    assert changed[0] == "computed: 2"
    assert "tea.txt" in changed[1]


def test_hybrid_search_shows_what_each_side_said(run, tmp_path):
    passages = tmp_path / "passages.txt"
    passages.write_text("\n".join(line for text in NOTES.values() for line in text.split("\n\n")), encoding="utf-8")
    found = [line.split("\t") for line in run("hybrid_search", passages, "泡绿茶水温多少？")]
    assert len(found) == 3
    assert found[0][3:] == ["line 2", "绿茶用八十度的水冲泡。"]
    assert [float(line[0]) for line in found] == sorted((float(line[0]) for line in found), reverse=True)
    assert all(0 < float(line[1]) < 1 for line in found)
    assert float(found[0][2]) > 0
    assert found[-1][2] == "-"


def test_a_hybrid_index_is_read_by_a_later_run(notes, run, tmp_path, capsys):
    from llama_index_zh_retrieval.examples.hybrid_index import main

    folder, index = notes("txt"), tmp_path / "index"
    main(str(folder), str(index), "火车票可以退吗？")
    first = [line for line in capsys.readouterr().out.splitlines() if not line.startswith("Loading")]
    assert first[0] == f"indexed {folder}"
    assert "trains.txt" in first[1]
    again = run("hybrid_index", folder, index, "火车票可以退吗？")
    assert [line for line in again if not line.startswith("Loading")] == first[1:]


def question(n):
    return {"question": f"第{n}次问：泡绿茶水温多少？"}


def check(answers):
    for n, answer in enumerate(answers):
        assert answer.status_code == 200
        assert answer.json()["question"] == question(n)["question"]
        assert answer.json()["sources"][0] == "绿茶用八十度的水冲泡。"
        assert answer.json()["answer"]


async def test_concurrent_requests_to_the_fastapi_app_share_forward_passes():
    from langchain_zh_retrieval.examples import fastapi_app as example

    async with (
        example.app.router.lifespan_context(example.app),
        httpx.AsyncClient(transport=httpx.ASGITransport(example.app), base_url="http://test") as client,
    ):
        with forward_passes(example.embeddings._load()) as sizes:
            answers = await asyncio.gather(*(client.post("/ask", json=question(n)) for n in range(24)))
        refused = await client.post("/ask", json={"query": "?"})
    check(answers)
    assert sum(sizes) == 24
    assert len(sizes) < 12
    assert refused.status_code == 422


def test_a_real_server_answers_concurrent_requests():
    uvicorn = pytest.importorskip("uvicorn")
    from langchain_zh_retrieval.examples import fastapi_app as example

    listening = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(example.app, log_level="error"))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        deadline = time.monotonic() + 60
        while not server.started:
            assert thread.is_alive()
            assert time.monotonic() < deadline
            time.sleep(0.02)
        check(asyncio.run(ask(f"http://127.0.0.1:{listening.getsockname()[1]}")))
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()
    assert not thread.is_alive()


async def ask(address):
    async with httpx.AsyncClient(base_url=address, timeout=60, trust_env=False) as client:
        return await asyncio.gather(*(client.post("/ask", json=question(n)) for n in range(12)))
