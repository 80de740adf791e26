"""The program of `make test-cpus`, without emulators: what it computes, and what it calls right."""

import json
import platform
import subprocess
import sys

import numpy as np
import pytest

from tests.cpus import __main__ as program
from tests.cpus import computing, emulators
from tests.cpus.checkpoints import CASES, ENCODER, make
from tests.cpus.comparing import compare
from zh_retrieval.recipes.catalogue import MODELS
from zh_retrieval.recipes.registry import get_spec

MODEL = "jina-bert"  # made without torch


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    found = tmp_path_factory.mktemp("cpus")
    make(found, [MODEL])
    return found


@pytest.fixture(scope="module")
def here(folder):
    (case,) = json.loads((folder / "cases.json").read_text(encoding="utf-8"))
    asked = ("float32", "auto", "int8")
    return [{"model": MODEL, "asked": each, "warned": [], **computing.computed(case, folder, each)} for each in asked]


def wrong(here, place, may_refuse=(), **changed):
    """Return what is called wrong where one result of another CPU differs from those here."""
    there = [{**each, **changed} if number == place else each for number, each in enumerate(here)]
    return [finding.asked for finding in compare(here, there, may_refuse) if not finding.right]


def shifted(result, by):
    return (np.array(result["values"]) + by).tolist()


def test_what_this_cpu_computes_is_right(here):
    assert [each["asked"] for each in here if "error" in each] == []
    assert wrong(here, 0) == []


@pytest.mark.slow
@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="limits what x86-64 has")
def test_this_cpu_with_fewer_instructions_computes_the_same_or_refuses_in_our_words(folder, tmp_path):
    here = list(program.results([sys.executable], [program.SHARED], folder))
    command, path = program.emulated("limited", tmp_path)
    findings = list(compare(here, program.results(command, path, folder), program.MAY_REFUSE["limited"]))
    assert [finding.asked for finding in findings] == list(ENCODER)
    assert all(finding.right for finding in findings), "\n".join(map(str, findings))


@pytest.mark.parametrize(("place", "off"), [(0, 2e-5), (0, np.nan), (2, 0.2)])
def test_numbers_that_are_off_are_wrong(here, place, off):
    assert wrong(here, place, values=shifted(here[place], off)) == [here[place]["asked"]]


def test_vectors_of_other_texts_are_wrong(here):
    assert wrong(here, 2, values=here[2]["values"][::-1]) == ["int8"]
    assert wrong(here, 2, values=here[2]["values"][1:]) == ["int8"]


def test_another_arithmetic_than_was_asked_for_is_wrong(here):
    assert wrong(here, 0, computed="int8") == ["float32"]
    assert wrong(here, 2, computed="float32") == ["int8"]


def test_only_what_a_cpu_may_refuse_is_refused_and_in_our_words(here):
    refused = "ConfigError: quantization='int8' does not compute on this CPU (no kernel). Leave it out"
    assert wrong(here, 2, error=refused) == ["int8"]
    assert wrong(here, 2, ["int8"], error=refused) == []
    assert wrong(here, 1, ["int8"], error=refused) == ["auto"]
    assert wrong(here, 2, ["int8"], error="RuntimeError: no kernel") == ["int8"]


def test_what_never_came_is_wrong(here):
    missing = [finding for finding in compare(here, here[:1]) if not finding.right]
    assert [(each.model, each.asked) for each in missing] == [(MODEL, "auto"), (MODEL, "int8")]


def test_a_warning_of_a_fall_back_is_shown(here):
    warning = "computes in float32: bfloat16 does not compute on this CPU (no kernel)"
    shown = [str(each) for each in compare(here, [{**here[1], "warned": [warning]}])]
    assert warning in shown[0]


def test_a_process_that_dies_gives_what_it_had(tmp_path, monkeypatch):
    dying = tmp_path / "dying.py"
    dying.write_text('import os\nprint(\'{"model": 1}\\n{"mod\', end="", flush=True)\nos.abort()\n', encoding="utf-8")
    monkeypatch.setattr(program, "PROGRAM", dying)
    assert list(program.results([sys.executable], [], tmp_path)) == [{"model": 1}]


def test_a_process_that_hangs_is_ended(tmp_path, monkeypatch):
    hanging = tmp_path / "hanging.py"
    hanging.write_text("import time\ntime.sleep(100)\n", encoding="utf-8")
    monkeypatch.setattr(program, "PROGRAM", hanging)
    assert list(program.results([sys.executable], [], tmp_path, minutes=0.002)) == []


def test_every_architecture_of_the_catalogue_is_computed():
    assert {get_spec(case.loads).architecture for case in CASES.values()} == {spec.architecture for spec in MODELS}


def test_computing_needs_nothing_but_the_package(tmp_path):
    code = (
        "import sys; import computing; print(sorted({'torch', 'transformers', 'pytest', 'tests'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", code]
    path = f"{program.SHARED}:{program.PROGRAM.parent}"
    done = subprocess.run(command, env={"PYTHONPATH": path}, cwd=tmp_path, check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("machine", ["x86_64", "riscv64"])
def test_elsewhere_it_says_what_is_missing(machine, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cpus", str(tmp_path / "new")])
    monkeypatch.setattr(program.platform, "machine", lambda: machine)
    monkeypatch.setattr(emulators.shutil, "which", lambda tool: None if machine == "x86_64" else tool)
    assert program.main() == 2
    assert ("apt-get, dpkg-deb" if machine == "x86_64" else "missing here: x86-64") in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def test_four_bits_lose_much_but_alike_on_every_cpu():
    exact, here, there = np.eye(3), np.eye(3) + 0.3, np.eye(3) + 0.3
    there[0, 1] += 0.3  # no farther from exact than its bound, but another rounding than here
    results = [{"model": "m", "asked": "float32", "computed": "float32", "warned": [], "values": exact.tolist()}]
    results += [{**results[0], "asked": "int4", "computed": "int4", "values": here.tolist()}]
    assert wrong(results, 0) == []
    assert wrong(results, 1, values=there.tolist()) == ["int4"]
