"""Ollama's dialect: embeddings, and what its clients ask of a server first."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import orjson
from starlette.responses import Response

from zh_retrieval import __version__
from zh_retrieval.errors import UnknownModelError
from zh_retrieval.server.dialects.embedding import Embedding, headers, json_reply, vectors, vectors_as_json
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import ollama
from zh_retrieval.server.models.served import ServedModel
from zh_retrieval.server.requests.fields import Ignored, Kind, Word
from zh_retrieval.server.requests.request import Request
from zh_retrieval.server.requests.texts import Texts
from zh_retrieval.server.routes.route import Route

_TAG = ":latest"  # which Ollama's clients put behind a name without a tag
_LONG_AGO = "1970-01-01T00:00:00Z"
_OTHERS: dict[str, Kind] = {
    **Embedding.others,
    **dict.fromkeys(("options", "keep_alive"), Ignored("How Ollama runs a model; changes nothing here.")),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed(Embedding):
    """POST /api/embed."""

    input: Annotated[list[str], Texts("One text or a list of texts.", one=True)]
    others: ClassVar[dict[str, Kind]] = _OTHERS


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedOne(Embedding):
    """POST /api/embeddings."""

    prompt: Annotated[list[str], Texts("One text.", one=True)]
    others: ClassVar[dict[str, Kind]] = _OTHERS


@dataclass(frozen=True, slots=True, kw_only=True)
class Show(Request):
    """POST /api/show."""

    model: Annotated[str | None, Word("Id of a model, as GET /api/tags lists it.", also=("name",))] = None
    others: ClassVar[dict[str, Kind]] = {"verbose": Ignored("Everything is said.")}


async def embed(incoming: Incoming) -> Response:
    """Texts to vectors, as Ollama gives them: model `NAME-query` for questions, documents by default."""
    begin = time.perf_counter_ns()
    rows, model, count, said = await _embedded(incoming, incoming.asked.input, "input")
    tail = {"total_duration": time.perf_counter_ns() - begin, "load_duration": 0, "prompt_eval_count": count}
    content = orjson.dumps({"model": model})[:-1] + b',"embeddings":[' + b",".join(rows) + b"],"
    return Response(content + orjson.dumps(tail)[1:], 200, said, "application/json")


async def embed_one(incoming: Incoming) -> Response:
    """One text to a vector, as Ollama's older clients ask it."""
    rows, _, _, said = await _embedded(incoming, incoming.asked.prompt, "prompt")
    return Response(b'{"embedding":' + rows[0] + b"}", 200, said, "application/json")


async def tags(incoming: Incoming) -> Response:
    """List every id of an embedding model."""
    return json_reply({"models": [_listed(name, served) for name, served in _embedding_ids(incoming)]}, {})


async def show(incoming: Incoming) -> Response:
    """Describe one id: how long a text may be, and how many numbers a vector has."""
    given = _untagged(incoming.asked.model) or ""
    found = dict(_embedding_ids(incoming))
    served = found.get(given)
    if served is None:
        raise UnknownModelError(f"The model {given[:100]!r} is not served here. There are: {', '.join(found)}.")
    known = {
        "general.architecture": served.spec.architecture,
        f"{served.spec.architecture}.context_length": served.handle.max_length,
        f"{served.spec.architecture}.embedding_length": served.handle.dimension,
    }
    details = _listed(given, served)["details"]
    return json_reply({"details": details, "model_info": known, "capabilities": ["embedding"]}, {})


async def version(_: Incoming) -> Response:
    """Say the version of this server."""
    return json_reply({"version": __version__}, {})


async def _embedded(incoming: Incoming, texts: list[str], name: str) -> tuple[list[bytes], str, int, dict[str, str]]:
    asked: Embed | EmbedOne = incoming.asked
    served, of_id = incoming.running.models.encoder(_untagged(asked.model))
    rows, side, used = await vectors(incoming, served, asked, of_id, texts, name)
    return await vectors_as_json(rows), asked.model or served.name, used.tokens, headers(served, side, used)


def _embedding_ids(incoming: Incoming) -> Iterator[tuple[str, ServedModel[Any]]]:
    return (entry for entry in incoming.running.models.ids() if entry[1].spec.task == "embedding")


def _listed(name: str, served: ServedModel[Any]) -> dict[str, Any]:
    details = {
        "format": "safetensors", "family": served.spec.architecture, "families": [served.spec.architecture],
        "parameter_size": "", "quantization_level": str(served.handle.dtype), "parent_model": "",
    }  # fmt: skip
    return {
        "name": name, "model": name, "modified_at": _LONG_AGO, "size": 0, "digest": served.weights, "details": details,
    }  # fmt: skip


def _untagged(model: str | None) -> str | None:
    return model.removesuffix(_TAG) if model else None


ROUTES = (
    Route("POST", "/api/embed", embed, ollama, Embed, {"model": "MODEL", "input": ["西湖在杭州。"]}),
    Route("POST", "/api/embeddings", embed_one, ollama, EmbedOne, {"model": "MODEL", "prompt": "西湖在杭州。"}),
    Route("POST", "/api/show", show, ollama, Show, {"model": "MODEL"}),
    Route("GET", "/api/tags", tags, ollama),
    Route("GET", "/api/version", version, ollama, work=False),
)
