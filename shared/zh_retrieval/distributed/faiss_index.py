"""Parts of a folder into a FAISS index: one part in memory at a time, and an interrupted run goes on."""

from __future__ import annotations

import json
import os
import random
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from zh_retrieval.distributed.parts import Columns, Parts
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError
from zh_retrieval.files.whole import write_whole

_STATE = "state.json"
_SAMPLED = 256  # parts that a sample is taken of, if they are long enough


def build_faiss(
    folder: str, index: str, *, factory: str = "Flat", save_every: int = 64, train_rows: int = 200_000,
    restart: bool = False, columns: Columns | None = None,
) -> int:  # fmt: skip
    """Return the number of vectors in a FAISS index of a folder of parts, written to the folder `index`.

    Inner product, which is the cosine. Row i of the index is the i-th line of `ids.txt` (JSON strings). Parts that
    were added later are added by another call. An index of other vectors (another model, other options, rows that
    have changed since) is refused: FAISS forgets nothing.

    Args:
        folder: Of parts: a path or a URI.
        index: A local folder.
        factory: What kind of index, as `faiss.index_factory` has it.
        save_every: Parts after which the state is kept: a killed run loses no more.
        train_rows: Vectors of all parts that kinds which learn ("IVF1024,Flat") learn from; in memory together.
        restart: Drop the index that is there.
        columns: As for `read_parts`.

    Raises:
        MissingExtraError: faiss is not installed.
        ConfigError: The folder holds no parts, too few vectors to learn from, or the index is another one's.
    """
    faiss = require("faiss", "faiss-cpu")
    parts, target = Parts(folder, columns), Path(index)
    target.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"factory": factory, "job": parts.identity, "file": None, "parts": [], "ids": 0}
    if (target / _STATE).exists():
        kept = json.loads((target / _STATE).read_text(encoding="utf-8"))
        if restart:
            _write_state(target, state)
            _remove(target, kept["file"])
        else:
            _check(kept, state, parts, index)
            state = kept
    built = faiss.read_index(str(target / state["file"])) if state["file"] else None
    done, unsaved = set(state["parts"]), 0
    with (target / "ids.txt").open("ab") as ids:
        ids.truncate(state["ids"])  # what was written after the index was kept
        for part in map(parts.read, [name for name in parts.names if name not in done]):
            if part.ids and not part.vectors.shape[1]:
                raise ConfigError(f"{part.name} holds no dense vectors, which FAISS needs. Embed without --no-dense.")
            if built is None:
                built = _empty(faiss, parts, factory, part.vectors.shape[1], train_rows)
            built.add(np.ascontiguousarray(part.vectors))
            ids.write("".join(json.dumps(id, ensure_ascii=False) + "\n" for id in part.ids).encode("utf-8"))
            state["parts"].append(part.name)
            unsaved += 1
            if unsaved == save_every:
                _keep(faiss, built, target, state, ids)
                unsaved = 0
        if unsaved:
            _keep(faiss, built, target, state, ids)
    return int(built.ntotal) if built is not None else 0


def _check(kept: dict[str, Any], state: dict[str, Any], parts: Parts, index: str) -> None:
    if kept["factory"] != state["factory"]:
        raise ConfigError(f"{index} is of kind {kept['factory']!r}, not {state['factory']!r}. Choose another folder.")
    gone = set(kept["parts"]) - set(parts.names)
    if gone or kept.get("job") != state["job"]:
        said = f"{len(gone)} of its parts are not there any more" if gone else "their model, weights or options differ"
        raise ConfigError(
            f"{index} holds other vectors than the folder of parts: {said}. Choose another folder for the index, or "
            "make it anew with restart=True."
        )


def _empty(faiss: Any, parts: Parts, factory: str, width: int, train_rows: int) -> Any:
    built = faiss.index_factory(width, factory, faiss.METRIC_INNER_PRODUCT)
    if not built.is_trained:
        sample = _sample(parts, train_rows)
        try:
            built.train(sample)
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][-200:]
            raise ConfigError(
                f"FAISS cannot learn {factory!r} from {len(sample)} vectors: {reason} Choose a smaller kind."
            ) from None
    return built


def _sample(parts: Parts, wanted: int) -> np.ndarray:
    """Return about `wanted` vectors, float32 (M, D), of parts all over the folder; all of them if there are fewer."""
    names = list(parts.names)
    random.Random(0).shuffle(names)
    share = -(-wanted // min(len(names), _SAMPLED))
    taken: list[np.ndarray] = []
    for name in names:
        vectors = parts.read(name).vectors
        places = np.linspace(0, len(vectors) - 1, min(share, len(vectors))).astype(np.int64)
        taken.append(vectors[places])
        wanted -= len(places)
        if wanted <= 0:
            break
    return np.concatenate(taken)


def _keep(faiss: Any, built: Any, target: Path, state: dict[str, Any], ids: Any) -> None:
    """Write the index under a new name, then the state that names it: either both count or neither."""
    ids.flush()
    os.fsync(ids.fileno())
    before, state["file"], state["ids"] = state["file"], f"{len(state['parts'])}.faiss", ids.tell()
    faiss.write_index(built, str(target / state["file"]))
    _write_state(target, state)
    if before != state["file"]:
        _remove(target, before)


def _write_state(target: Path, state: dict[str, Any]) -> None:
    write_whole(target / _STATE, lambda path: path.write_text(json.dumps(state), encoding="utf-8"))


def _remove(target: Path, file: str | None) -> None:
    if file:
        with suppress(OSError):
            (target / file).unlink()
