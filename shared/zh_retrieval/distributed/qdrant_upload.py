"""Parts of a folder into a Qdrant collection, which knows which of them it has."""

from __future__ import annotations

import math
import uuid
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from zh_retrieval.distributed.parts import Columns, Part, Parts
from zh_retrieval.distributed.resources import require
from zh_retrieval.distributed.sparse_side import SparseSide
from zh_retrieval.errors import ConfigError

if TYPE_CHECKING:
    from zh_retrieval.base import SparseEncoder

_NAMES = uuid.UUID("8d6ae2a4-52c2-4b57-9a0c-9f2c34a4f1b7")  # a namespace of our own for Qdrant's ids
_PART = "_part"  # in a point's payload: which part it was last sent of
_PAGE = 1000
SPARSE_NAME = "sparse"
"""What a point's sparse vector is called; the dense one has no name."""


def upload_qdrant(
    folder: str, client: Any, collection: str, *, sparse: str | SparseEncoder | None = None, batch_size: int = 256,
    restart: bool = False, columns: Columns | None = None,
) -> int:  # fmt: skip
    """Return the number of points that were sent to a Qdrant collection, which is made if there is none.

    A point's id is made of the row's id, so a row that is sent twice is there once; rows with one id are one point.
    Its payload is the row: id, text and all other columns, to filter by. A second collection, `COLLECTION-parts`,
    says which parts are in, and whose they are. An interrupted upload goes on with the part that
    was cut; of parts that are no longer in the folder the points are deleted.

    With `sparse`, points have a sparse vector called "sparse" beside the dense one, which has no name; of "bm25-zh" the
    collection counts how rare a term is (modifier "idf"). Parts that hold sparse vectors of this name give theirs;
    for others they are computed here from the texts.

    Args:
        folder: Of parts: a path or a URI.
        client: A `qdrant_client.QdrantClient`.
        collection: Its name.
        sparse: Name of a sparse model, or one from `load_sparse_encoder`: the way to say a corpus's own average
            length. None sends dense vectors alone.
        batch_size: Points of a request.
        restart: Delete the collection first.
        columns: As for `read_parts`.

    Raises:
        MissingExtraError: qdrant-client is not installed.
        ConfigError: The folder holds no parts, or neither dense vectors nor is `sparse` given, or the collection holds
            those of another model or other options.
        UnknownModelError, WrongTaskError: `sparse` names none.
    """
    require("qdrant_client", "qdrant-client")
    parts = Parts(folder, columns)
    with SparseSide(sparse, parts) as side:
        return _upload(parts, _Collection(client, collection, parts.identity, side), batch_size, restart=restart)


def _upload(parts: Parts, target: _Collection, batch_size: int, *, restart: bool) -> int:
    if restart:
        target.delete()
    finished = target.finished()
    sent = 0
    for name in parts.names:
        if name not in finished:
            part = parts.read(name)
            sent += target.send(part, batch_size) if part.ids else 0
    target.forget(target.named - set(parts.names))
    return sent


class _Collection:
    def __init__(self, client: Any, name: str, identity: str, side: SparseSide) -> None:
        self._client = client
        self._name = name
        self._ledger = f"{name}-parts"
        self._identity = f"{identity}+{side.identity}" if side.identity else identity
        self._side = side
        self._models = require("qdrant_client.models", "qdrant-client")
        self.named: set[str] = set()  # parts that the second collection names

    def delete(self) -> None:
        for name in (self._ledger, self._name):
            if self._client.collection_exists(name):
                self._client.delete_collection(name)

    def finished(self) -> set[str]:
        """Return the parts that are in the collection: those that are said to be, and whose last point is there."""
        if not self._client.collection_exists(self._ledger):
            return set()
        entries = list(self._entries())
        other = next((entry["job"] for entry in entries if entry["job"] != self._identity), None)
        if other is not None:
            raise ConfigError(
                f"The collection {self._name!r} holds vectors of another model, other weights or other options than "
                "the folder. Choose another collection, or make it anew with restart=True."
            )
        self.named = {entry["part"] for entry in entries}
        if not self._client.collection_exists(self._name):
            return set()
        there: set[str] = set()
        for low in range(0, len(entries), _PAGE):
            ids = [entry["last"] for entry in entries[low : low + _PAGE]]
            points = self._client.retrieve(self._name, ids=ids, with_payload=False, with_vectors=False)
            there |= {str(point.id) for point in points}
        return {entry["part"] for entry in entries if entry["last"] in there}

    def _entries(self) -> Iterator[dict[str, str]]:
        place = None
        while True:
            points, place = self._client.scroll(self._ledger, limit=_PAGE, offset=place, with_payload=True)
            yield from (point.payload for point in points)
            if place is None:
                return

    def send(self, part: Part, batch_size: int) -> int:
        models, points = self._models, [str(uuid.uuid5(_NAMES, id)) for id in part.ids]
        sparse = self._side.of(part)
        width = part.vectors.shape[1]
        if not width and sparse is None:
            raise ConfigError(f"{part.name} holds no dense vectors. Say which sparse ones with sparse=NAME.")
        self._make(width)
        for low in range(0, len(points), batch_size):
            high = min(low + batch_size, len(points))
            others = part.others.slice(low, high - low).to_pylist() if part.others is not None else [{}] * (high - low)
            payloads = [
                {**_plain(others[row - low]), "id": part.ids[row], "text": part.texts[row], _PART: part.name}
                for row in range(low, high)
            ]
            vectors: Any = part.vectors[low:high].tolist() if width else []
            if sparse is not None:
                vectors = {"": vectors} if width else {}
                vectors[SPARSE_NAME] = [
                    models.SparseVector(indices=indices.tolist(), values=values.tolist())
                    for indices, values in sparse[low:high]
                ]
            batch = models.Batch(ids=points[low:high], vectors=vectors, payloads=payloads)
            self._client.upsert(self._name, points=batch, wait=True)
        entry = {"part": part.name, "job": self._identity, "last": points[-1]}
        point = models.PointStruct(id=self._entry(part.name), vector=[0.0], payload=entry)
        self._client.upsert(self._ledger, points=[point], wait=True)
        return len(points)

    def _make(self, width: int) -> None:
        models = self._models
        if not self._client.collection_exists(self._name):
            dense: Any = models.VectorParams(size=width, distance=models.Distance.COSINE) if width else {}
            sparse = None
            if self._side.identity:
                modifier = models.Modifier.IDF if self._side.counts_rarity else None
                sparse = {SPARSE_NAME: models.SparseVectorParams(modifier=modifier)}
            self._client.create_collection(self._name, vectors_config=dense, sparse_vectors_config=sparse)
        if not self._client.collection_exists(self._ledger):
            one = models.VectorParams(size=1, distance=models.Distance.DOT)  # servers refuse points without any
            self._client.create_collection(self._ledger, vectors_config=one)

    def forget(self, gone: set[str]) -> None:
        """Delete the points of parts that are no longer there, unless another part has sent them since."""
        models = self._models
        for name in sorted(gone):
            match = models.FieldCondition(key=_PART, match=models.MatchValue(value=name))
            self._client.delete(self._name, points_selector=models.Filter(must=[match]), wait=True)
            self._client.delete(self._ledger, points_selector=[self._entry(name)], wait=True)

    def _entry(self, part: str) -> str:
        return str(uuid.uuid5(_NAMES, f"{self._name}/{part}"))


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: what JSON does not know is its text, a number that is none is null."""
    if isinstance(value, dict):
        return {str(key): _plain(found) for key, found in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(found) for found in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if value is None or isinstance(value, (str, int, float, bool)) else str(value)
