"""Which weights these are: one answer for sharing, resuming, caches of results, rounded weights, servers, clusters.

Two answers, by what they cost. Inside one process the state of the files that a model reads tells weights apart:
device, inode, size, both times. No program can set the time of the last change of an inode (ctime), and while a file is
held open its inode is nobody else's, so replaced files are seen whatever their size and time. Between processes and
machines the content counts: a SHA-256 of every file that is read, and of no other. It is computed when somebody asks,
at 1.6 GB/s where the CPU has instructions for it (0.4 GB/s where not): 0.25 s for 400 MB, 9 s for 14 GB, or as long as
the disk takes. A snapshot that we downloaded costs nothing: its manifest knows. A second question costs a few stats, of
a large file also in the next process.
"""

from __future__ import annotations

import hashlib
import json
import os
import weakref
from collections.abc import Iterator, Mapping
from pathlib import Path

from zh_retrieval import process
from zh_retrieval.checkpoint import blocks, conventions, lora
from zh_retrieval.checkpoint.content import FileState, blocks_of, sha256_of
from zh_retrieval.errors import CheckpointError
from zh_retrieval.hub.snapshot import MANIFEST, SPARSE_HEAD, is_safe, read_manifest, weights_of
from zh_retrieval.tokenization.vocabulary import vocabulary_files

_ADAPTERS = ("adapter_model.safetensors", "adapter_model.bin")

_HASHING = process.RenewedLock()  # the threads that ask for one model together hash it once


def files_read(folder: Path, weights: Path, adapter: Path | None = None) -> dict[str, Path]:
    """Return every file that a model is made of, by its part in it: no log, no README, no other format of the weights.

    Args:
        folder: What was asked for, with what sentence-transformers says of it.
        weights: Where config.json, vocabulary and weights are.
        adapter: Where a LoRA adapter is.
    """
    index, names = (None, [blocks.FILE]) if blocks.is_packed(weights) else weights_of(weights)
    listed = [
        "config.json",
        *vocabulary_files(weights),
        *([index] if index else []),
        *filter(is_safe, names or []),
        SPARSE_HEAD,
    ]
    found = {name: weights / name for name in listed}
    found |= {f"conventions/{name}": file for name, file in conventions.files_read(folder).items()}
    if adapter is not None:
        stored = next((name for name in _ADAPTERS if (adapter / name).is_file()), _ADAPTERS[0])
        found |= {f"adapter/{name}": adapter / name for name in (lora.CONFIG, stored)}
    return {name: file for name, file in sorted(found.items()) if file.is_file()}


class ModelFiles:
    """The files of one model, held open: what is asked later is answered of these, whatever lies in their place then.

    They are closed with the last reference, so never while another thread reads.

    Attributes:
        state: Tells these files from all others of this process, for as long as they are open.
    """

    def __init__(self, folder: Path, weights: Path, adapter: Path | None = None) -> None:
        """Open what `files_read` finds.

        Raises:
            CheckpointError: A file cannot be opened, or one that lists others cannot be read.
        """
        self._place = folder, weights, adapter
        paths = files_read(*self._place)
        self._open: dict[str, int] = {}
        weakref.finalize(self, _close, self._open).atexit = False
        for name, path in paths.items():
            try:
                self._open[name] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
            except OSError as error:
                raise CheckpointError(f"{path} cannot be opened: {error.strerror}. Check its permissions.") from error
        found = {name: os.fstat(number) for name, number in self._open.items()}
        self._names = {name: each.st_nlink for name, each in found.items()}
        self.state = tuple((name, FileState.of(each)) for name, each in found.items())
        self._listed = dict(_listed(folder, paths, dict(self.state)))
        self._digest: str | None = None

    def digest(self) -> str:
        """Return 16 hex digits of the content: equal for copies, on every machine. See the module for what it costs.

        A sparse side's file of its own is not in it: no vector, no score depends on it (`sparse_digest`).

        Raises:
            CheckpointError: A file was written to after it was opened, so that its content is gone.
        """
        with _HASHING:
            if self._digest is None:
                self._digest = self._hashed()
        return self._digest

    def _hashed(self) -> str:
        digest = hashlib.sha256()
        for name, state in self.state:
            if name == SPARSE_HEAD:
                continue
            if name == f"adapter/{lora.CONFIG}":
                content = _without_place(b"".join(blocks_of(self._open[name])))
            else:
                content = self._listed.get(name) or sha256_of(self._open[name], state)
            digest.update(f"{name} {content}\n".encode())
        self.check_unwritten()
        return digest.hexdigest()[:16]

    def sparse_digest(self) -> str:
        """Return what `digest` leaves out: 16 hex digits of a sparse side's file; "" without one."""
        state = dict(self.state).get(SPARSE_HEAD)
        return "" if state is None else sha256_of(self._open[SPARSE_HEAD], state)[:16]

    def check_unwritten(self) -> None:
        """Raise CheckpointError if a file was written to since it was opened; that others took its place is no fault.

        A file that loses a name (it was replaced, or removed) changes its ctime, too.
        """
        for name, state in self.state:
            found = os.fstat(self._open[name])
            now = FileState.of(found)
            if now != state and (now[:4] != state[:4] or found.st_nlink >= self._names[name]):
                folder = self._place[0]
                raise CheckpointError(
                    f"{name} of {folder} was written to after it was loaded. Load the model again; write a new file "
                    "and rename it, so that what is loaded stays whole."
                )

    def still_there(self) -> bool:
        """Return True if a model that is loaded now is made of these files."""
        try:
            return self.state == _state(files_read(*self._place))
        except (OSError, CheckpointError):  # something is removed, or half written, just now
            return False


def _state(paths: Mapping[str, Path]) -> tuple[tuple[str, FileState], ...]:
    return tuple((name, FileState.of(path.stat())) for name, path in paths.items())


def _close(opened: dict[str, int]) -> None:
    while opened:
        os.close(opened.popitem()[1])


def _listed(folder: Path, paths: Mapping[str, Path], states: Mapping[str, FileState]) -> Iterator[tuple[str, str]]:
    """Yield the hashes that our manifest of a snapshot has, of files that nobody changed after it was written."""
    manifest = read_manifest(folder)
    if manifest is None:
        return
    written = (folder / MANIFEST).stat().st_ctime_ns
    hashes = {folder / file.path: (file.size, file.sha256) for file in manifest.files}
    for name, path in paths.items():
        size, sha256 = hashes.get(path, (None, None))
        if sha256 and size == states[name].size and states[name].ctime_ns <= written:
            yield name, sha256


def _without_place(config: bytes) -> str:
    """Return the hash of an adapter's config without the folder of its base, which each machine has elsewhere."""
    try:
        read = json.loads(config)
        read.pop("base_model_name_or_path", None)
        config = json.dumps(read, sort_keys=True).encode()
    except (ValueError, AttributeError, TypeError):
        pass  # whoever loads it says what is wrong
    return hashlib.sha256(config).hexdigest()
