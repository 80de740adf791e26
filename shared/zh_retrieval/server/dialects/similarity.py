"""How similar texts are to one text, as TEI and Hugging Face's clients ask it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

import msgspec
from starlette.responses import Response

from zh_retrieval.server.dialects import tei
from zh_retrieval.server.dialects.embedding import Embedding, headers, json_reply, vectors
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import ErrorFormat
from zh_retrieval.server.http.problems import tei as tei_errors
from zh_retrieval.server.requests.fields import Kind, Only
from zh_retrieval.server.requests.reading import decoded, refused
from zh_retrieval.server.requests.texts import Text, Texts
from zh_retrieval.server.routes.route import Route

_EXPECTED = "an object with source_sentence, a text, and sentences, a list of texts"
_PARAMETERS = Only("its fields go beside inputs", {})


@dataclass(frozen=True, slots=True)
class Comparison:
    """A text, and those that are compared with it."""

    source: str
    sentences: list[str]


class _Heads(msgspec.Struct):
    source_sentence: msgspec.Raw = msgspec.Raw(b"null")
    sentences: msgspec.Raw = msgspec.Raw(b"null")


_HEADS = msgspec.json.Decoder(_Heads)


class Compared(Kind):
    """An object with `source_sentence` and `sentences`."""

    large = True
    _source, _sentences = Text("", blank=False), Texts("")

    def read(self, name: str, raw: bytes, max_texts: int) -> Comparison:
        """Return both; the text that is compared counts as one of `max_texts`."""
        if not raw.startswith(b"{"):
            raise refused(name, f"is no object, expected {_EXPECTED}")
        heads = decoded(_HEADS, name, raw, _EXPECTED)
        source = self._source.read(f"{name}.source_sentence", bytes(heads.source_sentence), max_texts)
        return Comparison(source, self._sentences.read(f"{name}.sentences", bytes(heads.sentences), max_texts - 1))

    @property
    def schema(self) -> dict[str, Any]:
        """Return both fields."""
        fields = {"source_sentence": self._source.schema, "sentences": self._sentences.schema}
        return {"type": "object", "properties": fields, "required": list(fields)}


class TextsOrCompared(Kind):
    """Texts, or what is compared: `/` does what the body asks for."""

    large = True
    _compared = Compared("")

    def read(self, name: str, raw: bytes, max_texts: int) -> list[str] | Comparison:
        """Return one or the other."""
        if raw.startswith(b"{"):
            return self._compared.read(name, raw, max_texts)
        return tei.INPUTS.read(name, raw, max_texts)

    @property
    def schema(self) -> dict[str, Any]:
        """Return one or the other."""
        return {"anyOf": [tei.INPUTS.schema, self._compared.schema]}


@dataclass(frozen=True, slots=True, kw_only=True)
class Similarity(Embedding):
    """POST /similarity."""

    error_format: ClassVar[ErrorFormat | None] = tei_errors
    inputs: Annotated[Comparison, Compared(f"What is compared: {_EXPECTED}.")]
    others: ClassVar[dict[str, Kind]] = {**Embedding.others, "parameters": _PARAMETERS}


@dataclass(frozen=True, slots=True, kw_only=True)
class Task(Embedding):
    """POST /, with inputs."""

    error_format: ClassVar[ErrorFormat | None] = tei_errors
    inputs: Annotated[list[str] | Comparison, TextsOrCompared(f"One text, a list of texts, or {_EXPECTED}.")]
    others: ClassVar[dict[str, Kind]] = {**Embedding.others, "parameters": _PARAMETERS}


async def similarity(incoming: Incoming) -> Response:
    """Compare `sentences` with `source_sentence`: a list of cosines; all texts get the documents' prompt by default."""
    asked: Similarity | Task = incoming.asked
    assert isinstance(asked.inputs, Comparison)
    served, of_id = incoming.running.models.encoder(asked.model)
    texts = [asked.inputs.source, *asked.inputs.sentences]
    rows, side, used = await vectors(incoming, served, asked, of_id, texts, "inputs")
    return json_reply((rows[1:] @ rows[0]).tolist(), headers(served, side, used))


async def task(incoming: Incoming) -> Response:
    """Embed `inputs`, compare them, or rerank `texts`: what the body asks for."""
    if isinstance(incoming.asked, tei.Rerank):
        return await tei.rerank(incoming)
    return await (similarity if isinstance(incoming.asked.inputs, Comparison) else tei.embed)(incoming)


_COMPARED = {"inputs": {"source_sentence": "西湖在哪里？", "sentences": ["西湖在杭州。", "长城在北京。"]}}
ROUTES = (
    Route("POST", "/similarity", similarity, tei_errors, Similarity, _COMPARED),
    Route("POST", "/", task, tei_errors, {"inputs": Task, "texts": tei.Rerank}, {"inputs": "西湖在杭州。"}),
)
