"""Metrics, the dashboard and the alert rules in shared/deploy: what they ask for is there, and Prometheus reads it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.server.serving import Server, serving
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder

DEPLOY = Path(__file__).parents[2] / "shared" / "deploy"
BOARD, ALERTS = DEPLOY / "grafana-dashboard.json", DEPLOY / "prometheus-alerts.yml"
PROMTOOL = shutil.which("promtool")
promtool = pytest.mark.skipif(PROMTOOL is None, reason="promtool, of Debian's package prometheus, is not installed")


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(Settings(handles={"fake": FakeEncoder()})) as running:
        assert running.post("/v1/embeddings", {"input": "好"}).status_code == 200
        assert running.post("/v1/embeddings", {"input": ""}).status_code == 400
        yield running


def queries() -> list[str]:
    board = json.loads(BOARD.read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    rules = re.findall(r"expr: (?:>-\n)?((?:.|\n)*?)\n +for:", ALERTS.read_text("utf-8"))
    assert len(asked) >= 10
    assert len(rules) == ALERTS.read_text("utf-8").count("- alert:")
    return asked + rules


def test_what_the_dashboard_and_the_rules_ask_for_is_there(server: Server) -> None:
    text = server.get("/metrics").text
    there = set(re.findall(r"^(\w+)[ {]", text, re.MULTILINE))
    labels = {label for line in text.splitlines() for label in re.findall(r"(\w+)=\"", line)}
    for query in queries():
        names = set(re.findall(r"\b((?:zh_retrieval|process)_\w+|up\b(?={))", query))
        assert names, query
        assert names <= there | {"up"}, query  # the one that Prometheus makes
        grouped = {word.strip() for group in re.findall(r"by \(([^)]*)\)", query) for word in group.split(",")}
        used = grouped | set(re.findall(r"[{,]\s*(\w+)=", query))
        assert used <= labels | {"instance", "job"}, query  # the two that Prometheus adds


def test_refusals_are_counted_by_reason_and_readiness_is_a_number(server: Server) -> None:
    text = server.get("/metrics").text
    assert 'zh_retrieval_refused_total{reason="empty"} 1.0' in text
    assert "zh_retrieval_ready 1.0" in text
    assert 'zh_retrieval_compute_seconds_count{model="fake"} 1.0' in text


@promtool
def test_promtool_accepts_the_metrics_and_the_rules(server: Server) -> None:
    assert PROMTOOL is not None
    for command, given in (
        (["check", "rules", str(ALERTS)], b""), (["check", "metrics"], server.get("/metrics").content),
    ):  # fmt: skip
        found = subprocess.run([PROMTOOL, *command], input=given, capture_output=True, timeout=60, check=False)
        assert found.returncode == 0, found.stdout + found.stderr
