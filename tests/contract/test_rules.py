"""The contract table names tests that exist and breaks that apply."""

from pathlib import Path

import pytest

from tests.contract.rules import RULES

HERE = Path(__file__).parent
ROOT = HERE.parents[1]


@pytest.mark.parametrize("rule", RULES, ids=[rule.name for rule in RULES])
def test_every_rule_has_its_tests_and_a_break(rule):
    assert (ROOT / rule.file).read_text(encoding="utf-8").count(rule.old) == 1
    assert rule.tests
    for test in rule.tests:
        file, name = test.partition("[")[0].split("::")
        text = (HERE / file).read_text(encoding="utf-8")
        assert f"def {name}(" in text or f"class {name}(" in text
