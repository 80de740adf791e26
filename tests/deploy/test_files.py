"""What the files for operators say, exists: flags, models, routes, paths; and their times fit each other."""

import json
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

import zh_retrieval as zr
from tests.deploy.in_a_root import steps
from zh_retrieval.cli.main import parser
from zh_retrieval.server.app import routes_of
from zh_retrieval.server.settings import Settings

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "shared" / "deploy"
DOCKERFILES = ("Dockerfile", "Dockerfile.gpu")


def unit():
    text = (DEPLOY / "zh-retrieval@.service").read_text(encoding="utf-8").replace("%i", "8081")  # of an instance
    return dict(re.findall(r"^(\w+)=(.*)$", text, re.M))


def kubernetes():
    found = yaml.safe_load_all((DEPLOY / "kubernetes" / "zh-retrieval.yaml").read_text(encoding="utf-8"))
    return {entry["kind"]: entry for entry in found}


def service():
    return yaml.safe_load((DEPLOY / "compose.yaml").read_text(encoding="utf-8"))["services"]["zh-retrieval"]


def pod():
    return kubernetes()["Deployment"]["spec"]["template"]["spec"]


def said(file):
    return dict(steps(DEPLOY / file))


def commands():
    yield from (json.loads(said(file)["CMD"]) for file in DOCKERFILES)
    yield service()["command"]
    yield pod()["containers"][0]["args"]
    yield shlex.split(unit()["ExecStart"])[1:]


def test_every_command_is_one_of_ours():
    for words in commands():
        known, unknown = parser().parse_known_args(words)
        assert (known.command, unknown) == ("serve", [])
        for name in known.model or ():
            zr.get_spec(name)
    readme = (DEPLOY / "README.md").read_text(encoding="utf-8")
    for line in re.findall(r"zh-retrieval ((?:download|doctor) [\w -]+)", readme):
        assert parser().parse_known_args(shlex.split(line))[1] == []


def test_a_platform_waits_longer_than_the_server_drains():
    for grace, words in (
        (service()["stop_grace_period"].rstrip("s"), service()["command"]),
        (unit()["TimeoutStopSec"], shlex.split(unit()["ExecStart"])[1:]),
        (pod()["terminationGracePeriodSeconds"] - 5, pod()["containers"][0]["args"]),  # preStop
    ):
        assert float(grace) >= parser().parse_args(words).drain + 5


def test_what_is_asked_for_health_is_a_route():
    routes = {route.path for route in routes_of(Settings(("e5-small-zh",)))}
    (container,) = pod()["containers"]
    asked = {container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")}
    for file in DOCKERFILES:
        asked |= set(re.findall(r"8080(/\w+)'", said(file)["HEALTHCHECK"]))
    assert asked == {"/readyz", "/livez"}
    hidden = re.search(r"\(([\w|]+)\)\$", (DEPLOY / "nginx.conf").read_text(encoding="utf-8"))
    assert asked | {f"/{name}" for name in hidden[1].split("|")} <= routes


def test_nobody_is_root_and_the_root_is_read_only():
    for file in DOCKERFILES:
        assert said(file)["USER"] == "10001:10001"
        assert said(file)["VOLUME"] == "/data"
    assert service()["read_only"]
    assert service()["volumes"] == ["weights:/data"]
    assert pod()["securityContext"]["runAsUser"] == 10001
    assert pod()["containers"][0]["securityContext"]["readOnlyRootFilesystem"]
    assert {mount["mountPath"] for mount in pod()["containers"][0]["volumeMounts"]} == {"/data", "/tmp"}


@pytest.mark.parametrize("file", DOCKERFILES)
def test_what_an_image_copies_is_there_and_nothing_else_is_sent(file):
    copied = [name for word, rest in steps(DEPLOY / file) if word == "COPY" and not rest.startswith("--")
              for name in rest.split()[:-1]]  # fmt: skip
    assert [name for name in copied if not (ROOT / name).exists()] == []
    sent = (DEPLOY / f"{file}.dockerignore").read_text(encoding="utf-8").split()
    assert {name.partition("/")[0] for name in copied} == {name[1:] for name in sent if name.startswith("!")}


def test_systemd_reads_the_unit(tmp_path):
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd here")
    text = (DEPLOY / "zh-retrieval@.service").read_text(encoding="utf-8")
    file = tmp_path / "zh-retrieval@8081.service"
    file.write_text(text.replace("/opt/zh-retrieval/bin/zh-retrieval", "/bin/true"), encoding="utf-8")
    done = subprocess.run([program, "verify", str(file)], capture_output=True, text=True, check=False)
    assert (done.returncode, [line for line in done.stderr.splitlines() if "zh-retrieval" in line]) == (0, [])
