"""A snapshot folder on disk: which files a model needs, whether they are complete, and our manifest of them."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any

MANIFEST = ".zh_retrieval.json"
"""Written last: a snapshot that has it was whole and verified."""
PLAN = ".zh_retrieval.incomplete.json"
"""The files that an unfinished download is to have; removed when it is whole."""

SPARSE_HEAD = "sparse_linear.pt"
"""What gives a token its weight, beside a model that has a sparse side."""
_SMALL = (
    SPARSE_HEAD,
    "config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json",
    "vocab.txt", "sentencepiece.bpe.model", "spiece.model", "tokenizer.model", "qwen.tiktoken", "modules.json",
    "sentence_bert_config.json", "config_sentence_transformers.json", "1_Pooling/config.json",
)  # fmt: skip
_DENSE = re.compile(r"(\d+_Dense)/(config\.json|model\.safetensors|pytorch_model\.bin)")
"""A dense layer after pooling: a folder of its own."""
_VOCABULARY = (
    "tokenizer.json",
    "vocab.txt",
    "sentencepiece.bpe.model",
    "spiece.model",
    "tokenizer.model",
    "qwen.tiktoken",
)
_FORMATS = (  # index, single file, shards: the first format that a listing holds is the only one taken
    ("model.safetensors.index.json", "model.safetensors", re.compile(r"model-[^/]+-of-[^/]+\.safetensors")),
    ("pytorch_model.bin.index.json", "pytorch_model.bin", re.compile(r"pytorch_model-[^/]+-of-[^/]+\.bin")),
)


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file as a hub lists it: relative POSIX path, size in bytes (None: unknown) and sha256 if the hub gives one."""

    path: str
    size: int | None = None
    sha256: str | None = None


@dataclass(frozen=True, slots=True)
class Listing:
    """What a hub lists of a repository: its files and, where the hub says it, the commit that they are of."""

    files: list[RemoteFile]
    commit: str | None = None


def is_safe(path: str) -> bool:
    """Return True if a listed path stays inside the folder: relative, POSIX, no `..`, no drive, no NUL."""
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts and not any(c in path for c in "\\:\0")


def select(files: Iterable[RemoteFile]) -> list[RemoteFile]:
    """Return what a model needs: config, vocabulary and one weights format; [] if any of the three is not listed.

    And with them the files of a dense layer after pooling.
    """
    by_path = {file.path: file for file in files}
    small = [file for path, file in by_path.items() if path in _SMALL or _of_dense(path, by_path)]
    weights = _weights(by_path)
    usable = "config.json" in by_path and any(path in by_path for path in _VOCABULARY)
    return [*small, *weights] if usable and weights else []


def _of_dense(path: str, by_path: dict[str, RemoteFile]) -> bool:
    match = _DENSE.fullmatch(path)
    if match is None:
        return False
    return match[2] != "pytorch_model.bin" or f"{match[1]}/model.safetensors" not in by_path


def _weights(by_path: dict[str, RemoteFile]) -> list[RemoteFile]:
    for index, single, shards in _FORMATS:
        if single in by_path:
            return [by_path[single]]
        parts = [file for path, file in by_path.items() if shards.fullmatch(path)]
        if index in by_path and parts:
            return [by_path[index], *parts]
    return []


def missing_files(folder: Path, also: Sequence[str] = ()) -> tuple[str, ...]:
    """Return what a folder lacks to be loaded; () if it is complete as far as names and the shard index tell.

    `also` are files that are not always needed.
    """
    lacking = [] if (folder / "config.json").is_file() else ["config.json"]
    if not any((folder / name).is_file() for name in _VOCABULARY):
        lacking.append("tokenizer.json (or another vocabulary)")
    others = (name for name in also if not (folder / name).is_file())
    return (*lacking, *_missing_weights(folder), *others)


def weights_of(folder: Path) -> tuple[str | None, list[str] | None]:
    """Return the shard index (None without one) and the names of the weight files, whether those exist or not.

    The names are [] if the folder has neither weights nor index, None if the index cannot be read.
    """
    for index, single, _ in _FORMATS:
        if (folder / single).is_file():
            return None, [single]
        if (folder / index).is_file():
            try:
                stored = json.loads((folder / index).read_text(encoding="utf-8"))["weight_map"].values()
                return index, sorted({str(name) for name in stored})
            except (ValueError, KeyError, TypeError, AttributeError):
                return index, None
    return None, []


def _missing_weights(folder: Path) -> list[str]:
    index, names = weights_of(folder)
    if names is None:
        return [str(index)]
    if not names:
        return ["model.safetensors (or another weights file)"]
    return [name for name in names if not (folder / name).is_file()]


def size_on_disk(folder: Path) -> int:
    """Return the bytes of all files below a folder: links followed, a file with several names counted once."""
    sizes: dict[tuple[int, int], int] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                found = os.stat(os.path.join(parent, name))
            except OSError:  # a broken link, or a file that another process has just renamed
                continue
            sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


@dataclass(frozen=True, slots=True)
class Manifest:
    """What we downloaded: written last, so that its presence says the snapshot was complete and verified.

    Attributes:
        hub: "modelscope" or "huggingface".
        id: The repository.
        revision: The revision that was asked for; None is the default branch.
        files: The files, with size and hash.
        commit: The commit that the revision was, where the hub says it.
        writer: The process that writes the snapshot, for those that wait for it.
    """

    hub: str
    id: str
    revision: str | None
    files: tuple[RemoteFile, ...]
    commit: str | None = None
    writer: str | None = None

    def write(self, folder: Path, name: str = MANIFEST) -> None:
        """Put the manifest into the folder, in one step."""
        temporary = folder / f"{name}.{os.getpid()}"
        temporary.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        temporary.replace(folder / name)

    def wrong_sizes(self, folder: Path) -> tuple[str, ...]:
        """Return the files that are not there or do not have their size; costs one stat each."""
        return tuple(file.path for file in self.files if _size(folder / file.path) != file.size or file.size is None)


def read_manifest(folder: Path, name: str = MANIFEST) -> Manifest | None:
    """Return a folder's manifest, or its plan; None if there is none that can be read."""
    try:
        stored: dict[str, Any] = json.loads((folder / name).read_text(encoding="utf-8"))
        files = tuple(RemoteFile(**file) for file in stored["files"])
        hub, id, revision = stored["hub"], stored["id"], stored["revision"]
        return Manifest(hub, id, revision, files, stored.get("commit"), stored.get("writer"))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def this_process() -> str:
    """Return what names this process to a person on another machine with the same disk."""
    return f"process {os.getpid()} on {socket.gethostname()}"


def _size(file: Path) -> int | None:
    try:
        return file.stat().st_size
    except OSError:
        return None


def sha256(file: Path) -> str:
    """Return the hex digest of a file."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def verify(folder: Path) -> list[str]:
    """Return what is wrong with a snapshot, hashing every file of its manifest; [] if nothing is."""
    manifest = read_manifest(folder)
    if manifest is None:
        return [f"{folder} has no manifest: it was not downloaded by zh-retrieval, so nothing to compare with."]
    problems = [f"{name}: missing or of the wrong size" for name in manifest.wrong_sizes(folder)]
    whole = [file for file in manifest.files if file.sha256 and _size(folder / file.path) == file.size]
    changed = [file.path for file in whole if sha256(folder / file.path) != file.sha256]
    return [*problems, *(f"{path}: sha256 differs from the hub's" for path in changed)]
