"""`zh-retrieval demo`: an index, questions and answers, through the frameworks a user has."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zh_retrieval.cli.flags import add_load_flags, load_options
from zh_retrieval.cli.searching import FRAMEWORKS, Hits, Passage, Stages, build
from zh_retrieval.cli.table import render
from zh_retrieval.errors import ConfigError, InputError, MissingExtraError
from zh_retrieval.files.records import Reader, Record, text_parser
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER, DEFAULT_LIKELIHOOD

HELP = "build an index and answer questions through LangChain and LlamaIndex, offline"
_DEPTH = 10  # passages looked at for each question: MRR@10
_SHOWN = 12  # questions in the table, besides the ones answered wrongly
_NOTED = 3  # equal ids named one by one
_FOLDER = Path(__file__).parents[2] / "builtin" / "demo"


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked, and the id of the right passage if it is known."""

    text: str
    answer: str | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one framework found, and how long it took."""

    framework: str
    hits: list[Hits]
    index_seconds: float
    milliseconds: list[float]


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--input",
        help="a .txt, .md, .jsonl, .csv or .tsv file, or a folder of .txt, .md and .jsonl; default: the demo corpus",
    )
    parser.add_argument("--query", action="append", help="ask this (repeatable); default: the demo questions")
    parser.add_argument("--model", "-m", default=DEFAULT_ENCODER, help="default: the built-in model")
    parser.add_argument("--reranker", help=f"second stage: {DEFAULT_CROSS_ENCODER}, {DEFAULT_LIKELIHOOD}, ...")
    parser.add_argument("--reranker-path", help="folder of the reranker's weights")
    parser.add_argument("--framework", choices=("both", *FRAMEWORKS), default="both")
    parser.add_argument("--top-k", type=int, default=3, help="passages shown for each question")
    parser.add_argument("--all", action="store_true", help="show every question")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, ask, print; status 1 if there were known answers and none was found."""
    passages, notes = _passages(arguments.input)
    questions = _questions(arguments)
    options = load_options(arguments)
    machine = {"device", "dtype", "cache_dir", "local_files_only", "base_url", "api_key", "dialect", "timeout"}
    shared = {name: value for name, value in options.items() if name in machine}
    stages = Stages(
        arguments.model, options, arguments.reranker, {**shared, "path": arguments.reranker_path},
        max(_DEPTH, arguments.top_k),
    )  # fmt: skip
    outcomes, missing = _outcomes(arguments.framework, passages, questions, stages)
    report = _report(outcomes, passages, questions, stages, [*notes, *missing])
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        _print(outcomes, passages, questions, report, arguments)
    return 1 if any(summary.get("hit@1") == 0 for summary in report["frameworks"]) else 0


def _passages(source: str | None) -> tuple[list[Passage], list[str]]:
    """Return the passages, each with an id of its own, and a note for each id that was given twice."""
    paths = [_FOLDER / "corpus.jsonl"] if source is None else _files(Path(source))
    found: dict[str, Passage] = {}
    first: dict[str, str] = {}
    notes = []
    for record in Reader(text_parser("text", None)).read([str(path) for path in paths]):
        if not record.text.strip():
            continue
        name = record.id
        if name in found:
            name = f"{record.id} ({record.where})"
            notes.append(f"id {record.id!r} is given twice, at {first[record.id]} and {record.where}: here {name!r}.")
        first.setdefault(record.id, record.where)
        found[name] = _passage(record, name)
    if not found:
        raise InputError(f"{source} holds no text. Give a .txt, .md, .jsonl, .csv or .tsv file, or a folder of them.")
    if len(notes) > _NOTED:
        notes[_NOTED:] = [f"{len(notes) - _NOTED} more ids are given twice."]
    return list(found.values()), notes


def _passage(record: Record, name: str) -> Passage:
    return Passage(name, str(record.fields.get("title") or ""), str(record.fields.get("text", record.text)))


def _files(source: Path) -> list[Path]:
    if not source.is_dir():
        return [source]
    kinds = (".txt", ".md", ".markdown", ".jsonl")
    return sorted(file for file in source.rglob("*") if file.suffix.lower() in kinds and file.is_file())


def _questions(arguments: argparse.Namespace) -> list[Question]:
    if arguments.query:
        return [Question(text) for text in arguments.query]
    if arguments.input is not None:
        raise ConfigError("--input needs at least one --query: what should be looked for?")
    lines = (_FOLDER / "questions.jsonl").read_text(encoding="utf-8").splitlines()
    return [Question(entry["text"], entry["answer"]) for entry in map(json.loads, lines)]


def _outcomes(
    framework: str, passages: list[Passage], questions: list[Question], stages: Stages
) -> tuple[list[Outcome], list[str]]:
    outcomes, notes = [], []
    for name in ("langchain", "llama-index") if framework == "both" else (framework,):
        try:
            outcomes.append(_ask(name, passages, questions, stages))
        except MissingExtraError as error:
            notes.append(str(error))
    if not outcomes:
        notes.append("No framework is installed: this is the plain core.")
        outcomes.append(_ask("core", passages, questions, stages))
    return outcomes, notes


def _ask(framework: str, passages: list[Passage], questions: list[Question], stages: Stages) -> Outcome:
    import zh_retrieval

    with zh_retrieval.load_encoder(stages.model, **stages.options) as encoder:  # loading is not what is timed
        encoder.encode_queries(["你好"])
        start = time.perf_counter()
        search = build(framework, passages, stages)
        index_seconds = time.perf_counter() - start
        hits, milliseconds = [], []
        for question in questions:
            start = time.perf_counter()
            hits.append(search(question.text))
            milliseconds.append((time.perf_counter() - start) * 1000)
    return Outcome(framework, hits, index_seconds, milliseconds)


def _report(
    outcomes: list[Outcome], passages: list[Passage], questions: list[Question], stages: Stages, notes: list[str]
) -> dict[str, Any]:
    first = outcomes[0].hits
    agree = all(
        [[name for name, _ in hits] for hits in o.hits] == [[n for n, _ in hits] for hits in first] for o in outcomes
    )
    return {
        "model": stages.model,
        "reranker": stages.reranker,
        "passages": len(passages),
        "questions": len(questions),
        "frameworks": [_summary(outcome, passages, questions) for outcome in outcomes],
        "frameworks_agree": agree if len(outcomes) > 1 else None,
        "notes": notes,
        "answers": [
            {"question": question.text, "answer": question.answer, "hits": [{"id": n, "score": s} for n, s in hits]}
            for question, hits in zip(questions, first, strict=True)
        ],
    }


def _summary(outcome: Outcome, passages: list[Passage], questions: list[Question]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "framework": outcome.framework,
        "passages_per_second": round(len(passages) / outcome.index_seconds, 1),
        "milliseconds_per_question": round(sorted(outcome.milliseconds)[len(questions) // 2], 1),
    }
    ranks = [_rank(hits, q.answer) for hits, q in zip(outcome.hits, questions, strict=True) if q.answer]
    if ranks:
        summary["hit@1"] = round(sum(rank == 1 for rank in ranks) / len(ranks), 4)
        summary["mrr@10"] = round(sum(1 / rank for rank in ranks if 0 < rank <= _DEPTH) / len(ranks), 4)
    return summary


def _rank(hits: Hits, answer: str) -> int:
    """Return the place of the answer, from 1; 0 if it was not found."""
    return next((place for place, (name, _) in enumerate(hits, 1) if name == answer), 0)


def _print(
    outcomes: list[Outcome],
    passages: list[Passage],
    questions: list[Question],
    report: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    stages = f" + {report['reranker']}" if report["reranker"] else ""
    print(f"{report['model']}{stages}: {len(passages)} passages, {len(questions)} questions, offline\n")
    by_id = {passage.id: passage for passage in passages}
    rows, hidden = [], 0
    for number, (question, hits) in enumerate(zip(questions, outcomes[0].hits, strict=True)):
        rank = _rank(hits, question.answer) if question.answer else None
        if number >= _SHOWN and rank in (None, 1) and not arguments.all:
            hidden += 1
            continue
        mark = {None: "", 1: "✓"}.get(rank, "✗")
        for place, (name, score) in enumerate(hits[: arguments.top_k]):
            left = (question.text, mark, f"{outcomes[0].milliseconds[number]:.0f} ms") if place == 0 else ("", "", "")
            right = "←" if name == question.answer else ""
            rows.append((left[0], left[1], _label(by_id[name]), f"{score:.3f}", right, left[2]))
    print(render(("question", "", "best passages", "score", "", "time"), rows, (44, 2, 40, 8, 2, 8)))
    if hidden:
        print(f"\n{hidden} more questions answered rightly (--all shows them)")
    print()
    for summary in report["frameworks"]:
        print("  ".join(f"{name} {value}" for name, value in summary.items()))
    if report["frameworks_agree"] is not None:
        print(f"both frameworks give the same order: {'yes' if report['frameworks_agree'] else 'NO'}")
    for note in report["notes"]:
        print(f"note: {note}")


def _label(passage: Passage) -> str:
    return passage.title or passage.text.replace("\n", " ")
