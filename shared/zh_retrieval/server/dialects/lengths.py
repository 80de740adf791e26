"""What the dialects say about texts that are too long: cut, refused, cut to a length."""

from __future__ import annotations

import re
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from zh_retrieval.errors import InputError
from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.server.requests.fields import Switch

ResultT = TypeVar("ResultT")
TRUNCATE = Switch(
    "Whether a text that is too long for the model is cut at its end; otherwise the request is refused with 422.",
    {"end": True, "none": False}, also=("truncation",),
)  # fmt: skip

_ENTRY = re.compile(r"\b(texts|pairs)\[(\d+)\]")
_OVERFLOW = re.compile(r", or use overflow=[^.]*|, or raise max_length| or raise max_length")


def check_cut_to(served: ServedModel[Any], name: str, tokens: int | None) -> None:
    """Raise RequestError if a field asks for texts of fewer tokens than the model takes; None and -1 ask nothing."""
    room = served.handle.max_length
    if tokens is not None and 0 <= tokens < room:
        raise RequestError(
            400, f"{name} is {tokens}, which is not supported: texts are cut to the {room} tokens that {served.name} "
            "takes. Shorten the texts, or leave it out.", None, name,
        )  # fmt: skip


async def computed(work: Coroutine[Any, Any, ResultT], fields: Mapping[str, str], *, cut: bool) -> ResultT:
    """Return what work gives; what it says of an input is said of the field that held it.

    Args:
        work: Of the model.
        fields: What the model calls its inputs, "texts" or "pairs" -> the field.
        cut: Whether what is too long is cut.

    Raises:
        RequestError: An input cannot be computed; 422 if it is too long and not to be cut.
    """
    try:
        return await work
    except InputError as error:
        said = _ENTRY.sub(lambda found: f"{fields.get(found[1], found[1])}[{found[2]}]", str(error))
        said = _OVERFLOW.sub("", said)
        if cut:
            raise RequestError(400, said) from None
        raise RequestError(422, f"{said} Or let it be cut: leave out truncate.", "too_long") from None
