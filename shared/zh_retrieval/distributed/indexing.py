"""Parts of a folder into FAISS and Qdrant: one part in memory at a time, and an interrupted run goes on."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from zh_retrieval.distributed.job.folder import PartFolder
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError

_STATE = "state.json"
_NAMES = uuid.UUID("8d6ae2a4-52c2-4b57-9a0c-9f2c34a4f1b7")  # a namespace of our own for Qdrant's ids


@dataclass(frozen=True, slots=True)
class Part:
    """The rows of one part that have vectors.

    Attributes:
        name: Its file name.
        ids: As in the input.
        texts: As they were embedded.
        vectors: float32 (N, D).
    """

    name: str
    ids: list[str]
    texts: list[str]
    vectors: np.ndarray


def read_parts(folder: str) -> Iterator[Part]:
    """Yield the parts that `embed --ray` or `EmbedDocuments` wrote, by name; rows without a vector are left out.

    Raises:
        ConfigError: The folder holds none.
    """
    parts = PartFolder(folder)
    names = sorted(parts.parts())
    if not names:
        raise ConfigError(f"{folder} holds no parts. Give the --output of `zh-retrieval embed --ray`.")
    for name in names:
        yield _part(name, parts.read(name))


def _part(name: str, table: Any) -> Part:
    table = table.filter(table.column("embedding").is_valid())
    column = table.column("embedding").combine_chunks()
    vectors = column.flatten().to_numpy(zero_copy_only=False).reshape(len(table), column.type.list_size)
    return Part(name, table.column("id").to_pylist(), table.column("text").to_pylist(), vectors)


def build_faiss(folder: str, index: str, *, factory: str = "Flat", save_every: int = 64) -> int:
    """Return the number of vectors in a FAISS index of a folder of parts, written to the folder `index`.

    Inner product, which is the cosine. Row i of the index is the i-th line of `ids.txt` (JSON strings). The state is
    kept after every `save_every` parts: a killed run loses no more. Parts that were added later are added by another
    call. Kinds that learn ("IVF1024,Flat") learn from the first part.

    Raises:
        MissingExtraError: faiss is not installed.
        ConfigError: The folder holds no parts, or the index is of another kind.
    """
    faiss = require("faiss", "faiss-cpu")
    target = Path(index)
    target.mkdir(parents=True, exist_ok=True)
    state: dict[str, Any] = {"factory": factory, "file": None, "parts": [], "ids": 0}
    if (target / _STATE).exists():
        state = json.loads((target / _STATE).read_text(encoding="utf-8"))
        if state["factory"] != factory:
            raise ConfigError(f"{index} is of kind {state['factory']!r}, not {factory!r}. Choose another folder.")
    built = faiss.read_index(str(target / state["file"])) if state["file"] else None
    done, unsaved = set(state["parts"]), 0
    with (target / "ids.txt").open("ab") as ids:
        ids.truncate(state["ids"])  # what was written after the index was kept
        for part in read_parts(folder):
            if part.name in done:
                continue
            if built is None:
                built = faiss.index_factory(part.vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
            if not built.is_trained:
                built.train(np.ascontiguousarray(part.vectors))
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


def _keep(faiss: Any, built: Any, target: Path, state: dict[str, Any], ids: Any) -> None:
    """Write the index under a new name, then the state that names it: either both count or neither."""
    ids.flush()
    os.fsync(ids.fileno())
    before, state["file"], state["ids"] = state["file"], f"{len(state['parts'])}.faiss", ids.tell()
    faiss.write_index(built, str(target / state["file"]))
    new = target / f"{_STATE}.new"
    new.write_text(json.dumps(state), encoding="utf-8")
    new.replace(target / _STATE)
    if before and before != state["file"]:
        with suppress(OSError):
            (target / before).unlink()


def upload_qdrant(folder: str, client: Any, collection: str, *, batch_size: int = 256) -> int:
    """Return the number of points that were sent to a Qdrant collection, which is made if there is none.

    A point's id is made of the row's id, so a row that is sent twice is there once; rows with one id are one point. A
    part whose last row is there is passed over: rows are sent in order, each batch when the one before is stored.

    Args:
        folder: Of parts.
        client: A `qdrant_client.QdrantClient`.
        collection: Its name.
        batch_size: Points of a request.
    """
    models = require("qdrant_client.models", "qdrant-client")
    sent = 0
    for part in read_parts(folder):
        if not part.ids:
            continue
        if not client.collection_exists(collection):
            size = models.VectorParams(size=part.vectors.shape[1], distance=models.Distance.COSINE)
            client.create_collection(collection, vectors_config=size)
        points = [str(uuid.uuid5(_NAMES, id)) for id in part.ids]
        if client.retrieve(collection, ids=[points[-1]], with_payload=False):
            continue
        for low in range(0, len(points), batch_size):
            rows = range(low, min(low + batch_size, len(points)))
            batch = models.Batch(
                ids=[points[row] for row in rows],
                vectors=part.vectors[low : low + batch_size].tolist(),
                payloads=[{"id": part.ids[row], "text": part.texts[row]} for row in rows],
            )
            client.upsert(collection, points=batch, wait=True)
            sent += len(rows)
    return sent
