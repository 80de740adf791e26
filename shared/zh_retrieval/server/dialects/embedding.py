"""What the embedding dialects have in common: fields, sides, lengths, headers, how vectors are written."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import numpy as np
import orjson
from starlette.responses import Response

from zh_retrieval.base import Encoder
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.server.dialects.lengths import TRUNCATE, check_cut_to, computed
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.models.ids import SIDES, Side, agreed_side
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.server.requests.fields import Choice, Count, Ignored, Kind, Only, Word
from zh_retrieval.server.requests.request import Request
from zh_retrieval.server.requests.texts import Text
from zh_retrieval.sparse.vector import SparseVector
from zh_retrieval.usage import Usage

MODEL = Word(
    "Id of a model, as GET /v1/models lists it. May be left out where this server has one model for the task. An "
    "embedding model's id may say the side: NAME-query, NAME-document."
)
_SIDE = Choice(
    "Whether the texts are questions or what is searched. Without it, and without a suffix of the model, they are "
    "documents, unless all of them begin with the model's instruction for queries.", SIDES,
)  # fmt: skip
_ROWS = 64  # rows that are written as JSON before the event loop gets its turn


@dataclass(frozen=True, slots=True, kw_only=True)
class Sided(Request):
    """A model, and a side of it in any vendor's words."""

    model: Annotated[str | None, MODEL] = None
    input_type: Annotated[Side | None, _SIDE] = None
    prompt_name: Annotated[Side | None, _SIDE] = None
    task: Annotated[Side | None, _SIDE] = None

    def side(self, of_id: Side | None) -> Side | None:
        """Return the side that is asked for, None if nothing says it. Raises InputError."""
        fields = {name: getattr(self, name) for name in ("input_type", "prompt_name", "task")}
        return agreed_side({"the model's suffix": of_id, **fields})


@dataclass(frozen=True, slots=True, kw_only=True)
class Embedding(Sided):
    """What can be asked of vectors, however the texts are called."""

    instruction: Annotated[str | None, Text("Words put before each query instead of the model's own.")] = None
    truncate: Annotated[bool, TRUNCATE] = True
    truncate_prompt_tokens: Annotated[
        int, Count("Tokens to cut texts to: the model's, or -1, which says so.", least=-1)
    ] = -1
    dimensions: Annotated[
        int | None,
        Count("Numbers of each vector, from its start, at length 1 again.", least=1, also=("output_dimension",)),
    ] = None

    others: ClassVar[dict[str, Kind]] = {
        **dict.fromkeys(("normalize", "normalized"), Only("vectors have length 1", True)),
        "late_chunking": Only(
            "texts are embedded one by one; /v1/zh-retrieval/chunks sees parts in their document", False
        ),
        "add_special_tokens": Only("the model's recipe says which tokens are added", True),
        "truncation_direction": Only("texts are cut at their end", "right"),
        "embedding_types": Only("vectors are float32", ["float"]),
        "output_dtype": Only("vectors are float32", "float"),
        **dict.fromkeys(("user", "priority", "request_id"), Ignored("For other servers; changes nothing here.")),
    }


async def vectors(
    incoming: Incoming, served: ServedModel[Encoder], asked: Embedding, of_id: Side | None, texts: list[str], name: str
) -> tuple[np.ndarray, Side, Usage]:
    """Return the vectors of the texts in the field `name`, the side they were embedded as, and what it took."""
    side, texts = _bare(served, texts, asked.side(of_id), own=asked.instruction is None)
    if asked.instruction is not None and side == "document":
        raise RequestError(
            400, 'instruction is for queries. Add "input_type": "query", or leave it out.', None, "instruction"
        )
    dimensions = asked.dimensions
    if dimensions is not None and dimensions != served.handle.dimension:
        check_dimensions(served.spec, dimensions, served.handle.dimension)
    check_cut_to(served, "truncate_prompt_tokens", asked.truncate_prompt_tokens)
    work = incoming.running.embed(served, texts, side, asked.instruction, cut=asked.truncate)
    rows, used = await computed(work, {"texts": name}, cut=asked.truncate)
    return _shortened(rows, dimensions), side, used


def headers(served: ServedModel[Any], side: Side | None, used: Usage) -> dict[str, str]:
    """Return what was done: the side, the cut inputs and the tokens they lost."""
    said = {"x-truncated": str(used.cut), "x-truncated-tokens": str(used.lost), "x-weights": served.weights}
    return said if side is None else {**said, "x-side": side}


async def vectors_as_json(rows: np.ndarray, form: str = "float") -> list[bytes]:
    """Return each vector as JSON: a list of the shortest numbers that are equal in float32, or base64."""
    texts = []
    for index, row in enumerate(rows):
        if index and index % _ROWS == 0:
            await asyncio.sleep(0)
        if form == "base64":
            texts.append(b'"' + base64.b64encode(row.tobytes()) + b'"')
        else:
            texts.append(orjson.dumps(row, option=orjson.OPT_SERIALIZE_NUMPY))
    return texts


async def sparse_as_json(vectors: Sequence[SparseVector]) -> bytes:
    """Return sparse vectors as TEI writes them: [[{"index", "value"}]], numbers as in `vectors_as_json`."""
    written: list[bytes] = []
    for index, vector in enumerate(vectors):
        if index and index % _ROWS == 0:
            await asyncio.sleep(0)
        indices, values = (
            orjson.dumps(numbers, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",") if len(vector) else []
            for numbers in (vector.indices, vector.values)
        )
        entries = (b'{"index":%b,"value":%b}' % entry for entry in zip(indices, values, strict=True))
        written.append(b"[" + b",".join(entries) + b"]")
    return b"[" + b",".join(written) + b"]"


def json_reply(body: Any, extra_headers: dict[str, str]) -> Response:
    """Return a body as JSON."""
    return Response(orjson.dumps(body), 200, extra_headers, "application/json")


def _bare(served: ServedModel[Encoder], texts: list[str], side: Side | None, *, own: bool) -> tuple[Side, list[str]]:
    """Return the side, and the texts without a prompt of that side that they bring along: it is added again.

    A client with one name for both sides puts the prompt of queries before them itself: nothing else tells them apart.
    """
    head = _head(served.spec.format_query("\0"))
    if side is None:
        side = "query" if head and own and all(text.startswith(head) for text in texts) else "document"
    if side == "document":
        head = _head(served.spec.format_document("\0"))
    if not head or not own:
        return side, texts
    return side, [text[len(head) :] if text.startswith(head) and text != head else text for text in texts]


def _head(prompted: str) -> str:
    head, _, tail = prompted.partition("\0")
    return "" if tail or not head.strip() else head


def _shortened(rows: np.ndarray, dimensions: int | None) -> np.ndarray:
    if dimensions is None or dimensions == rows.shape[1]:
        return rows
    kept = rows[:, :dimensions]
    shortened: np.ndarray = np.ascontiguousarray(kept / np.linalg.norm(kept, axis=1, keepdims=True), dtype="<f4")
    return shortened
