"""What models make of one text: its script, its tokens, what they do not know, what they would not read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from zh_retrieval.errors import ConfigError, ZhRetrievalError
from zh_retrieval.hub.cache import locate
from zh_retrieval.recipes.registry import all_specs, get_spec
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.script import counts, script_of
from zh_retrieval.table import render
from zh_retrieval.validation import check_text

_SHOWN = 20  # characters of the text that are shown at a time


def examine_text(
    text: str, name: str | None, path: str | None, cache_dir: Any, max_length: int | None
) -> dict[str, Any]:
    """Return what models make of a text that is given to them as a document; nothing is loaded or downloaded.

    Args:
        text: The text.
        name: Which model; None for all whose files are here.
        path: Its folder, where it is not a downloaded one.
        cache_dir: Where downloads are looked for.
        max_length: Tokens that the models read, instead of each one's own.

    Raises:
        InputError: The text is none that a tokenizer takes.
        ConfigError: The model's files are not here, or there is a folder without a name.
    """
    check_text(text, "TEXT")
    if path is not None and name is None:
        raise ConfigError("--path is a folder; which model it holds is missing. Give --model NAME=FOLDER.")
    simplified, traditional = counts(text)
    return {
        "characters": len(text),
        "script": script_of(text),
        "simplified": simplified,
        "traditional": traditional,
        "models": [_row(text, spec, folder, max_length) for spec, folder in _folders(name, path, cache_dir)],
    }


def print_text(found: dict[str, Any]) -> None:
    """Print what `examine_text` returns."""
    print(
        f"{found['characters']} characters, script: {found['script'] or 'either'} "
        f"({found['simplified']} of simplified alone, {found['traditional']} of traditional alone)\n"
    )
    header = ("model", "tokens", "reads", "unknown", "not read")
    rows = []
    for row in found["models"]:
        unknown = f"{row['unknown']} {row['unknown_characters']}".strip() if "unknown" in row else row["problem"]
        unread = f"{row['unread']} characters: {row['unread_from']}" if row.get("unread") else "-"
        rows.append((row["name"], str(row.get("tokens", "-")), str(row["reads"]), unknown, unread))
    print(render(header, rows, (32, 8, 8, 60, 60)))
    print("\ntokens: as a document, with its prompt and special tokens. A reranker reads the question beside it.")


def _folders(name: str | None, path: str | None, cache_dir: Any) -> Iterator[tuple[ModelSpec, Path]]:
    for spec in all_specs() if name is None else [get_spec(name)]:
        folder = Path(path) if path is not None else locate(spec, cache_dir=cache_dir).path
        if folder is not None:
            yield spec, folder
        elif name is not None:
            raise ConfigError(f"{spec.name} is not on this machine. Run: zh-retrieval download {spec.name}")


def _row(text: str, spec: ModelSpec, folder: Path, max_length: int | None) -> dict[str, Any]:
    from zh_retrieval.tokenization.tokenizer import build
    from zh_retrieval.tokenization.vocabulary import load_vocabulary

    reads = max_length or spec.max_length
    try:
        tokenizer = build(load_vocabulary(folder), spec, folder)
    except ZhRetrievalError as error:
        return {"name": spec.name, "reads": reads, "problem": str(error)}
    head = spec.document_template.index("{text}")
    ids, spans = tokenizer.ids_with_offsets(spec.format_document(text))
    unknown = [span for id, span in zip(ids, spans, strict=True) if id == tokenizer.unknown]
    room = max(0, reads - tokenizer.frame_length)
    unread = text[max(0, spans[room][0] - head) :] if len(ids) > room else ""
    return {
        "name": spec.name,
        "tokens": len(ids) + tokenizer.frame_length,
        "reads": reads,
        "unknown": len(unknown),
        "unknown_characters": _characters(text, [(low - head, high - head) for low, high in unknown]),
        "unread": len(unread),
        "unread_from": unread[:_SHOWN],
    }


def _characters(text: str, spans: Sequence[tuple[int, int]]) -> str:
    """Return the characters that became unknown tokens, each once."""
    return "".join(dict.fromkeys("".join(text[max(0, low) : high] for low, high in spans)))[:_SHOWN]
