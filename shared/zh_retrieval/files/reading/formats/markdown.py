"""Markdown to passages under their headings; every word of the file is in one of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import TYPE_CHECKING

from zh_retrieval.errors import InputError
from zh_retrieval.files.reading.encodings import UTF8, check_decoded
from zh_retrieval.files.reading.row import Row

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

_LONGEST = 400  # characters after which a passage ends at the next sentence
_FRONT_MATTER = re.compile(r"\A(---|\+\+\+)[ \t]*\n(.*?)^(?:\1|\.\.\.)[ \t]*(?:\n|\Z)", re.DOTALL | re.MULTILINE)
_FIELD = re.compile(r"\s*[^\s#:=][^:=\n]*[:=](?:\s|\Z)")
_TITLE = re.compile(r"^(?:title|标题)[ \t]*[:=][ \t]*([^\s|>].*)\n?", re.IGNORECASE | re.MULTILINE)


def passage_rows(markdown: str, name: str, encoding: str = UTF8) -> Iterator[Row]:
    """Yield a row for each passage of a Markdown file."""
    for number, (title, text) in enumerate(passages(markdown), 1):
        where, id, error = f"passage {number} of {name}", f"{name}:{number}", None
        try:
            check_decoded(f"{title}\n{text}", where, encoding)
        except InputError as found:
            error = str(found)
        yield Row({} if error else {"id": id, "title": title, "text": text}, where, id, error)


def passages(markdown: str) -> Iterator[tuple[str, str]]:
    """Yield (heading, passage): the blocks under one heading joined up to about 400 characters, as they are written.

    Headings are CommonMark's. One with nothing under it is a passage itself. Front matter (YAML or TOML) comes first,
    under its title, which is also the heading of what stands before the first heading.
    """
    for heading, blocks in _sections(re.sub(r"\r\n?", "\n", markdown)):
        found = list(_joined(piece for block in blocks for piece in _pieces(block)))
        if found:
            yield from ((heading, passage) for passage in found)
        elif heading:
            yield "", heading


def _sections(markdown: str) -> Iterator[tuple[str, list[str]]]:
    heading, metadata, body = _front_matter(markdown)
    blocks = [metadata] if metadata else []
    for is_heading, text in _blocks(body):
        if is_heading:
            yield heading, blocks
            heading, blocks = text, []
        else:
            blocks.append(text)
    yield heading, blocks


def _front_matter(markdown: str) -> tuple[str, str, str]:
    """Return the title, the other fields as text, and what follows."""
    found = _FRONT_MATTER.match(markdown)
    if not found or not _FIELD.match(found[2]):
        return "", "", markdown
    title = _TITLE.search(found[2])
    if title is None:
        return "", found[2].strip(), markdown[found.end() :]
    rest = found[2][: title.start()] + found[2][title.end() :]
    return title[1].strip().strip("\"'"), rest.strip(), markdown[found.end() :]


def _blocks(markdown: str) -> Iterator[tuple[bool, str]]:
    """Yield (is it a heading, text) for each top-level block; other text is the source lines, whatever they are."""
    lines = markdown.split("\n")
    tokens = _parser().parse(markdown)
    reached = 0
    for place, token in enumerate(tokens):
        if token.level or token.map is None:
            continue
        start, end = token.map
        if between := _text(lines[reached:start]):
            yield False, between
        if token.type == "heading_open":
            yield True, " ".join(tokens[place + 1].content.split())
        else:
            yield False, _text(lines[max(start, reached) : end])
        reached = max(end, reached)
    if rest := _text(lines[reached:]):
        yield False, rest


def _text(lines: list[str]) -> str:
    return "\n".join(lines).strip()


@cache
def _parser() -> MarkdownIt:
    from markdown_it import MarkdownIt

    # Blocks only; and a link's definition is text like any other: as a rule of its own it would give no block.
    return MarkdownIt("commonmark").disable(["inline", "reference"])


def _joined(pieces: Iterable[str]) -> Iterator[str]:
    passage = ""
    for piece in pieces:
        if passage and len(passage) + len(piece) > _LONGEST:
            yield passage
            passage = ""
        passage = f"{passage}\n{piece}" if passage else piece
    if passage:
        yield passage


def _pieces(block: str) -> Iterator[str]:
    piece = ""
    for sentence in re.split(r"(?<=[。！？!?；\n])", block):
        if piece.strip() and len(piece) + len(sentence) > _LONGEST:
            yield piece.strip()
            piece = ""
        piece += sentence
    if piece.strip():
        yield piece.strip()
