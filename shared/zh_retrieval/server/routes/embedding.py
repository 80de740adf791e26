"""What the embedding dialects have in common: sides, foreign instructions, lengths, headers."""

from __future__ import annotations

from typing import Any

import numpy as np
import orjson
from starlette.responses import Response

from zh_retrieval.base import Encoder
from zh_retrieval.errors import ConfigError, InputError
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.server import fields
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.models import Side, chosen_side
from zh_retrieval.server.problems import RequestError
from zh_retrieval.server.served import Served
from zh_retrieval.usage import Usage

SIDE_FIELDS = ("input_type", "prompt_name", "task")


def side_of(body: fields.Body, of_id: Side | None) -> Side:
    """Return the side that a request asks for, in any vendor's words. Raises InputError."""
    return chosen_side(of_id, {name: body.get(name) for name in SIDE_FIELDS})


def inputs(body: fields.Body, name: str) -> list[str]:
    """Return one text or a list of texts as a list.

    Raises:
        RequestError: Token ids, an empty text or an empty list; the message names the index.
        InputError: Anything else that is no text.
    """
    value = body.get(name)
    if isinstance(value, str):
        if not value:
            raise RequestError(400, f"{name} is an empty text. Leave it out.", "empty", name)
        value = [value]
        fields.texts({name: value}, name)
        return value
    if isinstance(value, list) and any(_is_ids(entry) for entry in value):
        _refuse_ids(value, name)
    found = fields.texts(body, name)
    empty = [index for index, entry in enumerate(found) if not entry]
    if empty:
        listed = ", ".join(f"{name}[{index}]" for index in empty[:10])
        raise RequestError(400, f"{listed} is an empty text. Leave empty texts out.", "empty", name)
    return found


async def vectors(
    incoming: Incoming, served: Served[Encoder], texts: list[str], side: Side, *, default_cut: bool = True
) -> tuple[np.ndarray, Usage]:
    """Return the vectors that a request asks for, by its fields `instruction`, `truncate` and `dimensions`."""
    body = incoming.body
    instruction = fields.optional_text(body, "instruction")
    if instruction is not None and side == "document":
        raise InputError("instruction is for queries. Add input_type='query', or leave it out.")
    if side == "query":
        _refuse_doubled(served, texts)
    if not fields.switch(body, "truncate", default_cut):
        try:
            rows, used = await incoming.running.embed(served, texts, side, instruction, cut=False)
        except InputError as error:
            raise RequestError(422, str(error), "too_long") from None
    else:
        rows, used = await incoming.running.embed(served, texts, side, instruction)
    return _shortened(served, rows, fields.count(body, "dimensions")), used


def headers(served: Served[Any], side: Side | None, used: Usage) -> dict[str, str]:
    """Return what was done: the side, the cut inputs and the tokens they lost."""
    said = {"x-truncated": str(used.cut), "x-truncated-tokens": str(used.lost), "x-weights": served.weights}
    return said if side is None else {**said, "x-side": side}


def json_reply(body: Any, said: dict[str, str]) -> Response:
    """Return a body as JSON; arrays of numpy become lists of the shortest numbers that are equal in float32."""
    return Response(orjson.dumps(body, option=orjson.OPT_SERIALIZE_NUMPY), 200, said, "application/json")


def _is_ids(entry: object) -> bool:
    return type(entry) is int or (isinstance(entry, list) and bool(entry) and all(type(item) is int for item in entry))


def _refuse_ids(value: list[object], name: str) -> None:
    if not all(_is_ids(entry) for entry in value):
        index = next(index for index, entry in enumerate(value) if not isinstance(entry, str))
        raise InputError(f"{name}[{index}] is {type(value[index]).__name__}, expected only texts.")
    raise RequestError(
        400, f"{name} holds token ids. They belong to another model's vocabulary and would give wrong vectors: send "
        "texts. In LangChain set check_embedding_ctx_length=False of OpenAIEmbeddings.",
        "token_ids_not_supported", name,
    )  # fmt: skip


def _refuse_doubled(served: Served[Encoder], texts: list[str]) -> None:
    head = served.spec.format_query("\0").partition("\0")[0]
    for index, text in enumerate(texts):
        if head.strip() and text.startswith(head.strip()):
            raise InputError(
                f"input[{index}] begins with the instruction {head.strip()[:80]!r} already, and the server would add "
                f"it again. Send the bare query, or the text as it is to the model {served.name}-document."
            )


def _shortened(served: Served[Encoder], rows: np.ndarray, dimensions: int | None) -> np.ndarray:
    if dimensions is None or dimensions == served.handle.dimension:
        return rows
    if dimensions == 0:
        raise ConfigError("dimensions is 0, expected a positive whole number.")
    check_dimensions(served.spec, dimensions, served.handle.dimension)
    kept = rows[:, :dimensions]
    shortened: np.ndarray = np.ascontiguousarray(kept / np.linalg.norm(kept, axis=1, keepdims=True), dtype="<f4")
    return shortened
