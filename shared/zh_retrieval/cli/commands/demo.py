"""`zh-retrieval demo`: an index, questions and answers, through the frameworks a user has."""

from __future__ import annotations

import argparse
import json
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zh_retrieval.cli.flags import add_load_flags, load_options, take_folder
from zh_retrieval.cli.searching import FRAMEWORKS, Answer, Passage, Stages, build
from zh_retrieval.errors import ConfigError, InputError, MissingExtraError
from zh_retrieval.files.reading.records import Reader, Record, text_form
from zh_retrieval.recipes.catalogue import DEFAULT_CROSS_ENCODER, DEFAULT_ENCODER, DEFAULT_LIKELIHOOD
from zh_retrieval.table import render

HELP = "build an index and answer questions by an embedding model and BM25, through LangChain and LlamaIndex, offline"
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
    answers: list[Answer]
    index_seconds: float
    milliseconds: list[float]


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "--input",
        help="a .txt, .md, .jsonl, .csv, .tsv or .parquet file, or a folder or pattern; default: the demo corpus",
    )
    parser.add_argument("--query", action="append", help="ask this (repeatable); default: the demo questions")
    parser.add_argument(
        "--model", "-m", default=DEFAULT_ENCODER, metavar="NAME[=FOLDER]", help="default: the built-in model"
    )
    parser.add_argument(
        "--reranker", metavar="NAME[=FOLDER]", help=f"second stage: {DEFAULT_CROSS_ENCODER}, {DEFAULT_LIKELIHOOD}, ..."
    )
    parser.add_argument("--reranker-path", help="folder of the reranker's weights")
    parser.add_argument("--framework", choices=("both", *FRAMEWORKS), default="both")
    parser.add_argument(
        "--top-k", type=int, metavar="N", help="passages shown for each question; default 1, with --query 3"
    )
    parser.add_argument("--all", action="store_true", help="show every question")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Build, ask, print; status 1 if there were known answers and none was found."""
    take_folder(arguments)
    take_folder(arguments, "reranker", "reranker_path")
    passages, notes = _passages(arguments.input)
    questions = _questions(arguments)
    options = load_options(arguments)
    machine = {"device", "dtype", "cache_dir", "local_files_only", "base_url", "api_key", "dialect", "timeout"}
    shared = {name: value for name, value in options.items() if name in machine}
    stages = Stages(
        arguments.model, options, arguments.reranker, {**shared, "path": arguments.reranker_path},
        max(_DEPTH, _top_k(arguments)),
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
    found: dict[str, Passage] = {}
    first: dict[str, str] = {}
    notes = []
    for record in Reader(text_form()).read([source or str(_FOLDER / "corpus.jsonl")]):
        if not record.text.strip():
            continue
        name = record.id
        if name in found:
            name = f"{record.id} ({record.where})"
            notes.append(f"id {record.id!r} is given twice, at {first[record.id]} and {record.where}: here {name!r}.")
        first.setdefault(record.id, record.where)
        found[name] = _passage(record, name)
    if not found:
        raise InputError(f"{source} holds no text. Give a file with texts, or a folder of them.")
    if len(notes) > _NOTED:
        notes[_NOTED:] = [f"{len(notes) - _NOTED} more ids are given twice."]
    return list(found.values()), notes


def _passage(record: Record, name: str) -> Passage:
    return Passage(name, str(record.fields.get("title") or ""), str(record.fields.get("text", record.text)))


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
        answers, milliseconds = [], []
        for question in questions:
            start = time.perf_counter()
            answers.append(search(question.text))
            milliseconds.append((time.perf_counter() - start) * 1000)
    return Outcome(framework, answers, index_seconds, milliseconds)


def _report(
    outcomes: list[Outcome], passages: list[Passage], questions: list[Question], stages: Stages, notes: list[str]
) -> dict[str, Any]:
    first = outcomes[0].answers
    agree = all(
        [[hit.id for hit in answer.hits] for answer in outcome.answers]
        == [[hit.id for hit in answer.hits] for answer in first]
        for outcome in outcomes
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
            {
                "question": question.text, "answer": question.answer,
                "hits": [{"id": hit.id, "score": hit.score} for hit in answer.hits],
                "dense_alone": answer.dense[:_DEPTH], "bm25_alone": answer.lexical[:_DEPTH],
            }
            for question, answer in zip(questions, first, strict=True)
        ],
    }  # fmt: skip


def _summary(outcome: Outcome, passages: list[Passage], questions: list[Question]) -> dict[str, Any]:
    summary: dict[str, Any] = {
        "framework": outcome.framework,
        "passages_per_second": round(len(passages) / outcome.index_seconds, 1),
        "milliseconds_per_question": round(sorted(outcome.milliseconds)[len(questions) // 2], 1),
    }
    known = [(given, question.answer) for given, question in zip(outcome.answers, questions, strict=True)]
    known = [(given, answer) for given, answer in known if answer]
    if known:
        summary |= _quality([_rank([hit.id for hit in given.hits], answer) for given, answer in known])
        summary["dense_alone"] = _quality([_rank(given.dense, answer) for given, answer in known])
        summary["bm25_alone"] = _quality([_rank(given.lexical, answer) for given, answer in known])
    return summary


def _quality(ranks: list[int]) -> dict[str, float]:
    return {
        "hit@1": round(sum(rank == 1 for rank in ranks) / len(ranks), 4),
        "mrr@10": round(sum(1 / rank for rank in ranks if 0 < rank <= _DEPTH) / len(ranks), 4),
    }


def _rank(ids: list[str], answer: str | None) -> int:
    """Return the place of the answer, from 1; 0 if it was not found."""
    return ids.index(answer) + 1 if answer in ids else 0


def _top_k(arguments: argparse.Namespace) -> int:
    return int(arguments.top_k or (3 if arguments.query else 1))


def _print(
    outcomes: list[Outcome],
    passages: list[Passage],
    questions: list[Question],
    report: dict[str, Any],
    arguments: argparse.Namespace,
) -> None:
    stages = f" + {report['reranker']}" if report["reranker"] else ""
    print(f"bm25 + {report['model']}{stages}: {len(passages)} passages, {len(questions)} questions, offline\n")
    labels = {passage.id: _label(passage) for passage in passages}
    rows, hidden = [], 0
    for number, (question, answer) in enumerate(zip(questions, outcomes[0].answers, strict=True)):
        ids = [hit.id for hit in answer.hits]
        if number >= _SHOWN and question.answer in (None, *ids[:1]) and not arguments.all:
            hidden += 1
            continue
        sides = [_marked(side[:1], question.answer, labels) for side in (ids, answer.dense, answer.lexical)]
        rows.append((question.text, *sides, f"{outcomes[0].milliseconds[number]:.0f} ms"))
        rows += [("", _marked([id], question.answer, labels), "", "", "") for id in ids[1 : _top_k(arguments)]]
    header = ("question", "answer", f"{report['model']} alone", "BM25 alone", "time")
    print(render(header, rows, (40, 26, 26, 26, 8)))
    if hidden:
        print(f"\n{hidden} more questions answered rightly (--all shows them)")
    print()
    alone: dict[str, dict[str, Any]] = {}
    for summary in report["frameworks"]:
        alone = {name: value for name, value in summary.items() if isinstance(value, dict)}
        print("  ".join(f"{name} {value}" for name, value in summary.items() if name not in alone))
    if any("hit@1" in summary for summary in report["frameworks"]):
        for name, found in alone.items():
            print("  ".join([name.replace("_", " "), *(f"{measure} {value}" for measure, value in found.items())]))
    if report["frameworks_agree"] is not None:
        print(f"both frameworks give the same order: {'yes' if report['frameworks_agree'] else 'NO'}")
    for note in report["notes"]:
        print(f"note: {note}")


def _marked(ids: list[str], answer: str | None, labels: dict[str, str]) -> str:
    """Return the first passage's label, marked as right or wrong where the right one is known."""
    mark = "" if answer is None else "✓ " if ids[:1] == [answer] else "✗ "
    return f"{mark}{labels[ids[0]] if ids else '-'}"


def _label(passage: Passage) -> str:
    return passage.title or passage.text.replace("\n", " ")
