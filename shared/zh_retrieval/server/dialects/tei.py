"""The dialect of Hugging Face's text-embeddings-inference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from starlette.responses import Response

from zh_retrieval import __version__
from zh_retrieval.server.dialects.embedding import (
    Embedding,
    Sided,
    headers,
    json_reply,
    sparse_as_json,
    vectors,
    vectors_as_json,
)
from zh_retrieval.server.dialects.lengths import TRUNCATE, computed
from zh_retrieval.server.dialects.scoring import Scoring, ranked
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import ErrorFormat, RequestError, tei
from zh_retrieval.server.requests.fields import Kind, Only, Switch
from zh_retrieval.server.requests.texts import Text, Texts
from zh_retrieval.server.routes.route import Route

INPUTS = Texts("One text or a list of texts. Token ids are refused.", one=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class Embed(Embedding):
    """POST /embed."""

    error_format: ClassVar[ErrorFormat | None] = tei
    inputs: Annotated[list[str], INPUTS]


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbedSparse(Sided):
    """POST /embed_sparse."""

    inputs: Annotated[list[str], INPUTS]
    truncate: Annotated[bool, TRUNCATE] = True

    others: ClassVar[dict[str, Kind]] = {"truncation_direction": Only("texts are cut at their end", "right")}


@dataclass(frozen=True, slots=True, kw_only=True)
class Rerank(Scoring):
    """POST /rerank."""

    error_format: ClassVar[ErrorFormat | None] = tei
    query: Annotated[str, Text("The question.", blank=False)]
    texts: Annotated[list[str], Texts("The texts to order.", empty=True)]
    return_text: Annotated[bool, Switch("Whether each result holds its text.")] = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Tokenize(Sided):
    """POST /tokenize."""

    inputs: Annotated[list[str], INPUTS]
    add_special_tokens: Annotated[bool, Switch("Whether the tokens around each text are given as well.")] = True


async def embed(incoming: Incoming) -> Response:
    """Texts to vectors: `inputs` is one text or a list, `prompt_name` the side, the answer a list of vectors."""
    asked: Embed = incoming.asked
    served, of_id = incoming.running.models.encoder(asked.model)
    rows, side, used = await vectors(incoming, served, asked, of_id, asked.inputs, "inputs")
    content = b"[" + b",".join(await vectors_as_json(rows)) + b"]"
    return Response(content, 200, headers(served, side, used), "application/json")


async def embed_sparse(incoming: Incoming) -> Response:
    """Texts to sparse vectors: for each a list of index and value. `model` may name one of several."""
    asked: EmbedSparse = incoming.asked
    served, of_id = incoming.running.models.sparse(asked.model)
    side = asked.side(of_id) or "document"
    work = incoming.running.embed_sparse(served, asked.inputs, side, cut=asked.truncate)
    found, used = await computed(work, {"texts": "inputs"}, cut=asked.truncate)
    content = await sparse_as_json(found)
    said = {**headers(served, side, used), "x-weights": served.sparse_weights}
    return Response(content, 200, said, "application/json")


async def rerank(incoming: Incoming) -> Response:
    """Order `texts` by how well they answer `query`: a list of index and score, best first."""
    asked: Rerank = incoming.asked
    served = incoming.running.models.reranker(asked.model)
    result = await ranked(incoming, served, asked, asked.query, asked.texts, "texts")
    listed: list[dict[str, Any]] = [
        {
            "index": entry.index,
            "score": entry.score,
            **({"text": asked.texts[entry.index]} if asked.return_text else {}),
        }
        for entry in result.ranked
    ]
    return json_reply(listed, headers(served, None, result.used))


async def info(incoming: Incoming) -> Response:
    """Describe the model, the embedding model first if there are several."""
    models = incoming.running.models.all
    served = next((model for model in models if model.spec.task == "embedding"), models[0])
    if served.spec.task == "embedding":
        kind: dict[str, Any] = {"embedding": {"pooling": served.spec.pooling}}
    elif served.spec.task == "sparse":
        kind = {"embedding": {"pooling": "splade"}}
    else:
        kind = {"reranker": {"id2label": {"0": "LABEL_0"}, "label2id": {"LABEL_0": 0}}}
    dtype = str(served.handle.dtype)
    return json_reply(
        {
            "model_id": served.spec.name, "model_sha": served.weights, "model_dtype": dtype,
            "served_model_name": served.name, "model_type": kind, "max_input_length": served.handle.max_length,
            "max_client_batch_size": incoming.running.settings.max_texts, "auto_truncate": True,
            "version": __version__, "sha": None, "docker_label": None,
        },
        {},
    )  # fmt: skip


async def tokenize(incoming: Incoming) -> Response:
    """Texts to tokens: id, text, whether special, and the characters they stand for; `prompt_name` adds its words."""
    asked: Tokenize = incoming.asked
    models = incoming.running.models
    alone = asked.model is None and len(models.all) == 1
    served, of_id = (models.all[0], None) if alone else models.encoder(asked.model)
    tokenizer = getattr(served.handle, "tokenizer", None)
    if tokenizer is None:
        raise RequestError(400, f"{served.name} has no tokenizer here.", None, "model")
    texts = asked.inputs
    side = asked.side(of_id)
    if side is not None:
        prompted = served.spec.format_query if side == "query" else served.spec.format_document
        texts = [prompted(text) for text in texts]
    content = await incoming.running.tokenizing.tokens(tokenizer, texts, special=asked.add_special_tokens)
    return Response(content, media_type="application/json")


_EXAMPLE: dict[str, object] = {"inputs": ["西湖在杭州。"], "prompt_name": "query"}
ROUTES = (
    Route("POST", "/embed", embed, tei, Embed, _EXAMPLE),
    Route("POST", "/embed_sparse", embed_sparse, tei, EmbedSparse, _EXAMPLE),
    Route("POST", "/tokenize", tokenize, tei, Tokenize, {"inputs": ["西湖在杭州。"]}),
    Route("GET", "/info", info, tei),
)
