"""`doctor --sizing`: what is measured adds up, and is not taken for something else."""

import json
import os

import pytest

from zh_retrieval.bench.sizing import measure
from zh_retrieval.cli.main import main
from zh_retrieval.recipes.registry import get_spec


@pytest.mark.slow
def test_what_is_measured_adds_up():
    found = measure(get_spec("e5-small-zh"), {"threads": 1}, seconds=0.01)
    assert (found.model, found.what, found.device, found.threads) == ("e5-small-zh", "texts", "cpu", 1)
    assert found.count == 64
    assert found.per_core_second >= 0.5 * found.per_second  # one thread: a core's second is never less than a second
    assert 50e6 < found.memory_bytes < os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert 0 < found.query_ms < 60_000


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--random"], "--random is for --sizing"),
        (["--sizing", "e5-small-zh", "--selftest", "e5-small-zh"], "Ask one"),
        (["--sizing", "bge-base-zh=/x", "--random"], "weights of its own"),
        (["--sizing", "bge-bas-zh"], "Did you mean"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_loaded(flags, said, capsys):
    assert main(["doctor", *flags]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_the_command_says_it_for_people_and_for_programs(capsys):
    assert main(["doctor", "--sizing", "e5-small-zh"]) == 0
    shown = capsys.readouterr().out
    assert "GB, the most that this process held" in shown
    assert "a core" in shown
    assert main(["doctor", "--sizing", "e5-small-zh", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["per_second"] > 0
