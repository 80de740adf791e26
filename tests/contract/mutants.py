"""Break the code once for each rule of the contract, and expect its tests to fail: `make mutants`."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.contract.rules import RULES, Rule

ROOT = Path(__file__).resolve().parents[2]
COPIED = ("shared", "langchain_zh_retrieval", "llama_index_zh_retrieval", "tests", "pyproject.toml", "README.md")


def run(tree: Path, rule: Rule) -> bool:
    """Return True if the tests of a rule pass on a copy of the code."""
    tests = [f"tests/contract/{test}" for test in rule.tests]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(tree / "shared"), str(tree)])}
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", *tests]
    done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, text=True, check=False)
    if done.returncode not in (0, 1, 2):  # 2: the tests cannot even be collected
        sys.exit(f"{rule.name}: pytest ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.returncode == 0


def main() -> None:
    """Try every rule; exit with 1 if a break goes unseen."""
    with tempfile.TemporaryDirectory(prefix="zh-retrieval-mutants-") as name:
        tree = Path(name)
        for item in COPIED:
            source = ROOT / item
            (shutil.copytree if source.is_dir() else shutil.copy)(source, tree / item)
        unseen = []
        for number, rule in enumerate(RULES, 1):
            file = tree / rule.file
            right = file.read_text(encoding="utf-8")
            file.write_text(right.replace(rule.old, rule.new), encoding="utf-8")
            survived = run(tree, rule)
            file.write_text(right, encoding="utf-8")
            print(f"{number:2}/{len(RULES)} {'NOT SEEN' if survived else 'seen'}: {rule.name}", flush=True)
            unseen += [rule.name] if survived else []
    if unseen:
        sys.exit(f"{len(unseen)} breaks go unseen: {', '.join(unseen)}")
    print(f"All {len(RULES)} breaks are seen.")


if __name__ == "__main__":
    main()
