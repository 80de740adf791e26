"""The dialect of Hugging Face's text-embeddings-inference."""

from __future__ import annotations

import asyncio
from typing import Any

from starlette.responses import Response

from zh_retrieval import __version__
from zh_retrieval.errors import InputError
from zh_retrieval.server import fields
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.problems import RequestError, tei
from zh_retrieval.server.routes.embedding import SIDE_FIELDS, headers, inputs, json_reply, side_of, vectors
from zh_retrieval.server.routes.route import Route
from zh_retrieval.server.routes.scoring import scored


async def embed(incoming: Incoming) -> Response:
    """Texts to vectors: `inputs` is one text or a list, `prompt_name` the side, the answer a list of vectors."""
    body = incoming.body
    served, of_id = incoming.running.models.encoder(body.get("model"))
    side = side_of(body, of_id)
    if not fields.switch(body, "normalize", True):
        raise RequestError(
            422, "normalize=false is not supported: vectors have length 1. Leave it out.", None, "normalize"
        )
    _check_direction(body)
    rows, used = await vectors(incoming, served, inputs(body, "inputs"), side)
    return json_reply(rows, headers(served, side, used))


async def rerank(incoming: Incoming) -> Response:
    """Order `texts` by how well they answer `query`: a list of index and score, best first."""
    body = incoming.body
    served = incoming.running.models.reranker(body.get("model"))
    _check_direction(body)
    texts = fields.texts(body, "texts")
    result = await scored(incoming, served, fields.text(body, "query"), texts)
    with_text = fields.switch(body, "return_text", False)
    listed: list[dict[str, Any]] = [
        {"index": entry.index, "score": entry.score, **({"text": texts[entry.index]} if with_text else {})}
        for entry in result.ranked
    ]
    return json_reply(listed, headers(served, None, result.used))


async def task(incoming: Incoming) -> Response:
    """Embed `inputs` or rerank `texts`: what the body asks for."""
    return await (rerank if "texts" in incoming.body else embed)(incoming)


async def info(incoming: Incoming) -> Response:
    """Describe the model, the embedding model first if there are several."""
    models = incoming.running.models.all
    served = next((model for model in models if model.spec.task == "embedding"), models[0])
    settings = incoming.running.settings
    if served.spec.task == "embedding":
        kind: dict[str, Any] = {"embedding": {"pooling": served.spec.pooling}}
    else:
        kind = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    dtype = str(served.handle.dtype).removeprefix("torch.")
    return json_reply(
        {
            "model_id": served.spec.name, "model_sha": served.weights, "model_dtype": dtype,
            "served_model_name": served.name, "model_type": kind, "max_concurrent_requests": 512,
            "max_input_length": served.handle.max_length, "max_batch_tokens": settings.max_queue_tokens,
            "max_batch_requests": None, "max_client_batch_size": settings.max_texts, "auto_truncate": True,
            "tokenization_workers": 4, "version": __version__, "sha": None, "docker_label": None,
        },
        {},
    )  # fmt: skip


async def tokenize(incoming: Incoming) -> Response:
    """Texts to tokens: id, text, whether special, and the characters they stand for; `prompt_name` adds its words."""
    body = incoming.body
    name = body.get("model")
    models = incoming.running.models
    single = models.all[0] if len(models.all) == 1 else None
    served, of_id = (single, None) if name is None and single is not None else models.encoder(name)
    tokenizer = getattr(served.handle, "tokenizer", None)
    if tokenizer is None:
        raise InputError(f"{served.name} has no tokenizer here.")
    texts = inputs(body, "inputs")
    incoming.running.check_count(len(texts), "inputs")
    if of_id is not None or any(body.get(field) is not None for field in SIDE_FIELDS):
        prompted = served.spec.format_query if side_of(body, of_id) == "query" else served.spec.format_document
        texts = [prompted(text) for text in texts]
    special = fields.switch(body, "add_special_tokens", True)
    return json_reply(await asyncio.to_thread(_tokens, tokenizer, texts, special), {})


ROUTES = (
    Route("POST", "/embed", embed, tei, {"inputs": ["西湖在杭州。"], "prompt_name": "query"}),
    Route("POST", "/", task, tei, {"inputs": "西湖在杭州。"}),
    Route("POST", "/tokenize", tokenize, tei, {"inputs": ["西湖在杭州。"]}),
    Route("GET", "/info", info, tei),
)


def _check_direction(body: fields.Body) -> None:
    value = body.get("truncation_direction")
    if value is not None and str(value).lower() != "right":
        raise RequestError(
            422, f"truncation_direction is {str(value)[:20]!r}, expected 'Right': texts are cut at their end."
        )


def _tokens(tokenizer: Any, texts: list[str], special: bool) -> list[list[dict[str, Any]]]:
    def outside(ids: tuple[int, ...]) -> list[dict[str, Any]]:
        names = [tokenizer.tokenizer.id_to_token(token) for token in ids]
        return [
            {"id": token, "text": name, "special": True, "start": None, "stop": None}
            for token, name in zip(ids, names, strict=True)
        ]

    before, after = (outside(tokenizer.prefix), outside(tokenizer.suffix)) if special else ([], [])
    found = []
    for text in texts:
        ids, offsets = tokenizer.ids_with_offsets(text)
        inner = [
            {"id": token, "text": text[low:high], "special": False, "start": low, "stop": high}
            for token, (low, high) in zip(ids, offsets, strict=True)
        ]
        found.append([*before, *inner, *after])
    return found
