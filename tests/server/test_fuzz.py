"""Whatever is sent, and in whatever order: no 500, no hang, no wrong vector."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.depth import examples
from zh_retrieval.server.app import App, routes_of
from zh_retrieval.server.requests.request import kinds
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder, FakeReranker

SETTINGS = Settings(handles={"e5-small-zh": FakeEncoder(384), "bge-reranker-large": FakeReranker()}, max_texts=8)
POSTED = sorted({route.path for route in routes_of(SETTINGS) if route.method == "POST"})
REFUSED = {400, 401, 404, 413, 422}

text = st.text(st.characters(exclude_categories=()), max_size=12) | st.sampled_from(
    ["茶", "", " ", "\ud83d", "\0", "Q" * 9]
)
scalar = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | text
value = st.recursive(scalar, lambda part: st.lists(part) | st.dictionaries(text, part), max_leaves=8)
many = st.lists(text, max_size=9) | value
names = st.sampled_from(
    ["e5-small-zh", "e5-small-zh-query", "e5-small-zh-document", "bge-reranker-large", "builtin", "-query", "nope"]
)
fields = {
    "model": names | value, "input": many | text, "inputs": many | text, "texts": many,
    "documents": many | st.lists(st.fixed_dictionaries({"text": text})), "query": text | value,
    "document": text | value, "pairs": st.lists(st.tuples(text, text)) | value, "text_1": text | value,
    "text_2": many, "queries": many,
    "spans": st.lists(st.tuples(st.integers(-1, 5), st.integers(-1, 9))) | value, "items": many,
    "side": st.sampled_from(["query", "document"]) | value, "instruction": text | value,
    "input_type": st.sampled_from(["query", "passage", "search_document", "qurey"]) | value, "prompt_name": value,
    "task": value, "encoding_format": st.sampled_from(["float", "base64"]) | value,
    "dimensions": st.integers(-1, 400) | value, "truncate": value, "normalize": value, "truncation_direction": value,
    "raw_scores": value, "return_text": value, "return_documents": value, "top_n": st.integers(-1, 9) | value,
    "top_k": value, "add_special_tokens": value,
}  # fmt: skip
fields |= {  # whatever else is declared, and what nobody declared
    name: value
    for route in routes_of(SETTINGS) if route.requests is not None
    for request in ((route.requests,) if isinstance(route.requests, type) else route.requests.values())
    for attribute, (kind, _) in kinds(request).items()
    for name in (attribute, *kind.also, *request.others, "nobody")
    if name not in fields
}  # fmt: skip
bodies = st.fixed_dictionaries({}, optional=fields)


@pytest.fixture(scope="module")
def ask() -> Iterator[Any]:
    """Yield a function that posts to the app in this process, and waits ten seconds at most."""
    loop = asyncio.new_event_loop()
    app = App(SETTINGS)

    async def start() -> httpx.AsyncClient:
        await app.start()
        await app.ready()
        return httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test")

    client = loop.run_until_complete(start())

    async def post(path: str, content: bytes, headers: dict[str, str]) -> httpx.Response:
        return await asyncio.wait_for(client.post(path, content=content, headers=headers), 10)

    yield lambda path, content, headers: loop.run_until_complete(post(path, content, headers))
    loop.run_until_complete(client.aclose())
    loop.run_until_complete(app.stop())
    loop.close()


quickly = settings(
    max_examples=examples(10), deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)  # fmt: skip


@pytest.mark.parametrize("path", POSTED)
@quickly
@given(body=bodies)
def test_any_object_is_answered_or_refused_with_words(ask: Any, path: str, body: dict[str, Any]) -> None:
    answer = ask(path, json.dumps(body).encode(), {})
    assert answer.status_code in {200, *REFUSED}, (answer.text, body)
    if answer.status_code != 200:
        said = answer.json()
        assert len(json.dumps(said)) < 4000
        assert any(said.get(key) for key in ("error", "message", "detail"))


@pytest.mark.parametrize("path", POSTED)
@quickly
@given(content=st.binary(max_size=40) | value.map(lambda whole: json.dumps(whole).encode()))
def test_any_bytes_are_answered_or_refused(ask: Any, path: str, content: bytes) -> None:
    for headers in ({}, {"content-encoding": "gzip"}, {"content-type": "text/plain", "content-encoding": "br"}):
        assert ask(path, content, headers).status_code in {200, 415, *REFUSED}


@pytest.mark.parametrize(
    ("path", "field", "rest"),
    [
        ("/v1/embeddings", "input", {"encoding_format": "float"}), ("/embed", "inputs", {}), ("/", "inputs", {}),
        ("/embeddings", "input", {"input_type": "query"}), ("/v1/embeddings", "input", {"model": "e5-small-zh-query"}),
    ],
)  # fmt: skip
@quickly
@given(data=st.data())
def test_any_texts_get_their_own_vectors(ask: Any, path: str, field: str, rest: dict[str, Any], data: Any) -> None:
    plain = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=9)
    texts = data.draw(st.lists(plain.filter(lambda text: not text.startswith("query:")), min_size=1, max_size=8))
    answer = ask(path, json.dumps({field: texts, **rest}).encode(), {})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    rows = [row["embedding"] for row in found["data"]] if isinstance(found, dict) else found
    np.testing.assert_allclose(np.array(rows, np.float32), FakeEncoder(384).encode_documents(texts), atol=1e-6)


@pytest.mark.parametrize("path", ["/rerank", "/v1/rerank", "/v2/rerank"])
@quickly
@given(data=st.data())
def test_any_documents_get_their_own_scores(ask: Any, path: str, data: Any) -> None:
    plain = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=9)
    asked = plain.filter(str.strip)  # a question of white space has no score
    query, documents = data.draw(asked), data.draw(st.lists(plain, min_size=1, max_size=8))
    top = data.draw(st.none() | st.integers(0, 9))
    body = {"query": query, "documents": documents, "top_n": top, "raw_scores": True}
    results = ask(path, json.dumps(body).encode(), {}).json()["results"]
    wanted = FakeReranker().score([(query, document) for document in documents])
    assert len(results) == min(top or len(documents), len(documents))
    scores = [entry["relevance_score"] for entry in results]
    assert scores == sorted(scores, reverse=True)
    np.testing.assert_allclose(scores, [wanted[entry["index"]] for entry in results], atol=1e-6)
