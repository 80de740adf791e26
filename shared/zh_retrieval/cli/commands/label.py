"""`zh-retrieval label`: judge by hand what systems find, key by key."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from zh_retrieval import checks
from zh_retrieval.cli.console import has_terminal, say
from zh_retrieval.cli.flags import add_encoding_flag, add_load_flags, load_options
from zh_retrieval.recipes.catalogue import DEFAULT_ENCODER
from zh_retrieval.table import fit

if TYPE_CHECKING:
    from zh_retrieval.evaluation.dataset import Dataset
    from zh_retrieval.evaluation.questions.labelling import Item, Labels

HELP = "judge by hand the passages that models and BM25 find for your questions; resumes where you stopped"
_KEYS = "y right, n wrong, 0-3 grade, s skip, u undo, q quit"
_GRADES = {"y": 1, "n": 0, "0": 0, "1": 1, "2": 2, "3": 3}
_SHOWN = 600  # characters of a passage


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "folder", metavar="FOLDER", help="corpus.jsonl and queries.jsonl; answers go to qrels/labels.tsv"
    )
    parser.add_argument("--model", "-m", action="append", help="as of eval; repeatable; default: the built-in model")
    parser.add_argument("--depth", type=int, default=5, metavar="N", help="first N passages of each system (default 5)")
    parser.add_argument("--cache", metavar="FOLDER", help="where vectors are kept (default: user's cache)")
    add_encoding_flag(parser)
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Search, then ask for every pair that is not judged."""
    from zh_retrieval.evaluation.questions.labelling import Labels, pool
    from zh_retrieval.evaluation.questions.reading import read_unjudged
    from zh_retrieval.evaluation.systems.base import Task
    from zh_retrieval.evaluation.systems.building import build
    from zh_retrieval.evaluation.systems.store import Store, default_root

    checks.whole_number("--depth", arguments.depth, "a positive whole number of passages")
    folder = Path(arguments.folder).expanduser()
    labels = Labels(folder / "qrels" / "labels.tsv")
    data = read_unjudged(folder, arguments.encoding)
    store = Store(Path(arguments.cache) if arguments.cache else default_root())
    systems = build(arguments.model or [DEFAULT_ENCODER], [], load_options(arguments), store, depth=1, bm25=True)
    task = Task(data, arguments.depth, show_progress=has_terminal())
    items = pool([task.run(system).rankings for system in systems], task.query_ids, arguments.depth)
    _ask(data, labels, [item for item in items if item not in labels], len(items))
    say(f"{len(labels)} judged. Next: zh-retrieval eval {arguments.folder} --split labels")
    return 0


def _ask(data: Dataset, labels: Labels, waiting: list[Item], total: int) -> None:
    while waiting:
        _show(data, waiting[0], total - len(waiting) + 1, total)
        key = sys.stdin.readline()
        if not key or key.strip().lower() == "q":
            return
        key = key.strip().lower()
        if key in _GRADES:
            labels.put(waiting.pop(0), _GRADES[key])
        elif key == "s":
            waiting.pop(0)
        elif key == "u":
            last = labels.undo()
            if last is not None:
                waiting.insert(0, last)
        else:
            print(f"{key!r} is no answer: {_KEYS}")


def _show(data: Dataset, item: Item, number: int, total: int) -> None:
    query, name = item
    passage = data.corpus.get(name)
    text = passage.joined() if passage else "(not in the corpus any more)"
    print(f"\n[{number}/{total}] {_plain(data.queries.get(query, query))}\n{'-' * 40}\n{_plain(text)}\n")
    print(f"{_KEYS} > ", end="", flush=True)


def _plain(text: str) -> str:
    """Return at most 600 characters without what moves a terminal's cursor."""
    shown = text if len(text) <= _SHOWN else text[:_SHOWN] + "…"
    return "\n".join(fit(line, 10_000).rstrip() for line in shown.split("\n"))
