"""Which files of a folder hold passages, questions and judgements."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from zh_retrieval.errors import InputError
from zh_retrieval.evaluation.reading.rows import format_of

_ROLES = {
    "corpus": ("corpus", "passages", "documents", "docs", "collection"),
    "queries": ("queries", "query", "questions"),
    "qrels": ("qrels", "qrel", "default", "judgements", "judgments"),
}
_SHARD = re.compile(r"-\d{5}-of-\d{5}(-[0-9a-f]+)?$")
_SPLITS = ("train", "dev", "test", "validation", "val", "eval")

Files = tuple[tuple[str | None, Path], ...]
"""(split or None, file), sorted."""


@dataclass(frozen=True, slots=True)
class Tables:
    """The files of each role."""

    corpus: Files
    queries: Files
    qrels: Files

    def roles(self) -> dict[str, Files]:
        """Return role -> files."""
        return {"corpus": self.corpus, "queries": self.queries, "qrels": self.qrels}

    @staticmethod
    def of(files: Files, split: str | None) -> list[Path]:
        """Return the files of a split: those of that name; where there are none of it, all."""
        chosen = [file for name, file in files if name == split]
        return chosen if split is not None and chosen else [file for _, file in files]


def find_tables(folder: Path) -> Tables:
    """Return the files below a folder by role: from the name of the folder they are in, else from their own.

    Without judgements in it, those of the folder of its name with "-qrels" behind, as C-MTEB's repositories are named.

    Raises:
        InputError: Passages lie in several folders: several subsets.
    """
    folder = folder.resolve()
    found: dict[str, list[tuple[str | None, Path]]] = {role: [] for role in _ROLES}
    for file in _files(folder):
        role, split = _role(file.relative_to(folder))
        if role:
            found[role].append((split, file))
    beside = folder.parent / f"{folder.name}-qrels"
    if not found["qrels"] and beside.is_dir():
        found["qrels"] = [(_split(file, ()), file) for file in _files(beside)]
    parents = sorted({str(file.parent.relative_to(folder)) for _, file in found["corpus"]})
    if len(parents) > 1:
        raise InputError(f"{folder} holds several corpora: {', '.join(parents)}. Put one dataset into a folder.")
    return Tables(*(tuple(sorted(found[role], key=lambda pair: str(pair[1]))) for role in _ROLES))


def _files(folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if format_of(file) is not None and file.is_file()]


def _role(relative: Path) -> tuple[str | None, str | None]:
    parent = relative.parent.name.lower()
    stem = _stem(relative)
    for name in (parent, stem):
        words = re.split(r"[-._]", name)
        for role, names in _ROLES.items():
            if set(names) & set(words) and (role == "qrels" or format_of(relative) != "text"):
                return role, _split(relative, names)
    return None, None


def _split(file: Path, names: tuple[str, ...]) -> str | None:
    """Return the split in a file's name: `test.tsv`, `qrels.dev.tsv`, `dev-00000-of-00001.parquet`."""
    words = [word for word in re.split(r"[-._]", _stem(file)) if word and word not in names]
    if names and len(words) == len(re.split(r"[-._]", _stem(file))):  # the folder says the role: the name is the split
        return _stem(file) if words != ["data"] else None
    return next((word for word in words if word in _SPLITS), None)


def _stem(file: Path) -> str:
    name = re.sub(r"\.(gz|zst)$", "", file.name.lower())
    return _SHARD.sub("", name.rsplit(".", 1)[0])
