"""The page on training: its blocks and commands run as they stand, and its sentence is eval's own."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import zh_retrieval
from zh_retrieval.cli.main import parser

PAGE = Path(zh_retrieval.__file__).parent / "evaluation" / "training.md"
BLOCKS = re.findall(r"```(python|bash)\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)


def test_every_command_has_these_flags():
    commands = [line for language, code in BLOCKS if language == "bash" for line in code.splitlines()]
    ours = [shlex.split(line, comments=True)[1:] for line in commands if line.startswith("zh-retrieval ")]
    assert [words[0] for words in ours] == ["negatives", "eval"]
    for words in ours:
        assert parser().parse_known_args(words)[1] == []


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_page_runs_as_written_and_says_what_eval_says(tmp_path):
    pytest.importorskip("sentence_transformers")
    pytest.importorskip("datasets")
    quiet = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "HF_HOME": str(tmp_path / "hf"), "HF_HUB_OFFLINE": "1"}
    environment = {**os.environ, **quiet, "PYTHONPATH": str(PAGE.parents[2])}

    def run(*command):
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]
        return done.stdout

    command = (sys.executable, "-m", "zh_retrieval.cli.main")
    for language, code in BLOCKS:
        if language == "python":
            run(sys.executable, "-c", code)
            continue
        for line in code.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["zh-retrieval"]:
                shown = run(*command, *words[1:])
    assert "trained" in shown.splitlines()[0]
    start = zh_retrieval.load_encoder("e5-small-zh", path=str(tmp_path / "start"), private=True)
    built = zh_retrieval.load_encoder("e5-small-zh", private=True)
    with start, built:
        same = start.encode_documents(["绿茶用八十度的水冲泡。"]) @ built.encode_documents(["绿茶用八十度的水冲泡。"]).T
    assert same.item() > 0.9999
    said = json.loads(run(*command, *shlex.split(line, comments=True)[1:], "--json"))
    rows = {row["name"]: row["metrics"]["nDCG@10"] for row in said["results"]}
    pair = next(
        entry for entry in said["comparisons"] if {entry["system"], entry["baseline"]} == {"trained", "e5-small-zh"}
    )
    difference = rows[pair["system"]] - rows[pair["baseline"]]
    assert pair["difference"] == pytest.approx(difference, abs=2e-6)  # each is rounded to six digits
    low, high = pair["interval"]
    assert said["conclusion"]["take"] in (None, *rows)
    if low <= 0 <= high:
        assert (
            said["conclusion"]["take"] is None
            or "trained" in said["conclusion"]["tied"]
            or said["conclusion"]["take"] == "trained"
        )
