"""Requests are read whole before any work: what is honoured, what is refused and in which words, and at which cost."""

from __future__ import annotations

import gzip
import json
import re
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.server.serving import HeldEncoder, Server, serving, wait_until
from zh_retrieval.errors import ConfigError
from zh_retrieval.server.app import routes_of
from zh_retrieval.server.dialects import openai, own, rerank, score, tei
from zh_retrieval.server.http.problems import RequestError
from zh_retrieval.server.requests.request import kinds, read
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder, FakeReranker

ENCODER, RERANKER = FakeEncoder(384), FakeReranker()
SETTINGS = Settings(handles={"e5-small-zh": ENCODER, "bge-reranker-large": RERANKER}, max_body_bytes=1_000_000)
DOCUMENTS = ["绿茶", "红茶", "长城"]
RERANK = {"query": "茶", "documents": DOCUMENTS}


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with serving(SETTINGS) as running:
        yield running


def message(answer: httpx.Response) -> str:
    said = answer.json()
    return str(
        said["error"]["message"] if isinstance(said.get("error"), dict) else said.get("error") or said["message"]
    )


def refused(content: bytes, request: Any = openai.Embeddings, max_texts: int = 2048) -> str:
    with pytest.raises(RequestError) as caught:
        read(request, content, max_texts)
    assert caught.value.status == 400
    assert len(caught.value.message) < 400
    return caught.value.message


MANY = 300_000
LARGE_INSIDE = {
    "lists nobody asked for": b'{"input":["x"],"junk":[' + b"[]," * MANY + b"[]]}",
    "fields nobody asked for": b'{"input":["x"],' + b",".join(b'"%d":0' % index for index in range(MANY)) + b"}",
}
REFUSED_INSIDE = {
    "too many texts": (b'{"input":[' + b'"a",' * MANY + b'"b"]}', "input has 300001 texts, more than max_texts=2048"),
    "lists as texts": (b'{"input":[' + b"[]," * MANY + b"[]]}", "input[0]"),
    "numbers as texts": (b'{"input":[' + b"0," * MANY + b"0]}", "input[0]"),
    "numbers as a word": (b'{"input":"x","encoding_format":[' + b"0," * MANY + b"0]}", "encoding_format has 600"),
    "a long model": (b'{"input":"x","model":"' + b"bge-base-zh" * MANY + b'"}', "model has 3300002 bytes"),
    "lists as a side": (b'{"input":"x","input_type":[' + b"[]," * MANY + b"[]]}", "input_type has"),
    "a long reason": (b'{"input":"x","normalize":"' + b"a" * MANY + b'"}', "normalize is"),
    "not closed": (b'{"input":["x"],"junk":[' + b"[]," * MANY, "no JSON"),
    "deep": (b'{"input":["x"],"junk":' + b"[" * MANY, "no JSON"),
    "half a character after all": (b'{"junk":[' + b"[]," * MANY + rb'[]],"input":["x","\ud83d"]}', "input[1]"),
}  # fmt: skip


def costs(work: Any) -> float:
    """Return what work takes at its height, as a multiple of 1 MB; Python's and msgspec's objects are counted."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1] / 1e6
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("case", LARGE_INSIDE)
def test_what_is_not_asked_for_is_never_built(case: str) -> None:
    content = LARGE_INSIDE[case]
    assert costs(lambda: read(openai.Embeddings, content, 2048)) < 1


@pytest.mark.parametrize("case", REFUSED_INSIDE)
def test_what_is_refused_is_not_built_either(case: str) -> None:
    content, says = REFUSED_INSIDE[case]
    assert says in refused(content)
    assert costs(lambda: refused(content)) < 3 * len(content) / 1e6


@pytest.mark.parametrize(
    ("request_of", "content", "says"),
    [
        (openai.Embeddings, rb'{"input":["\ud83d\ude00","\ude00"]}', r"input[1] holds a lone surrogate \ude00"),
        (openai.Embeddings, rb'{"input":["a \" b","\\ud83d","\ud83d"]}', r"input[2] holds a lone surrogate \ud83d"),
        (openai.Embeddings, rb'{"input":"\ud83d"}', "input holds a lone surrogate"),
        (openai.Embeddings, rb'{"input":"x","encoding_format":"\ud83d"}', "encoding_format holds"),
        (openai.Embeddings, rb'{"input":"x","nobody":"\ud83d"}', "The body holds a lone surrogate"),
        (openai.Embeddings, b'{"input":"\xff"}', "input is no valid text"),
        (own.Score, rb'{"model":"m","pairs":[["a","b"],["a","\ud83d"]]}', "pairs[1] holds"),
        (own.Score, b'{"model":"m","pairs":[["a","b"],["a"]]}', "pairs[1]"),
        (own.Score, b'{"model":"m","pairs":[["a","b","c"]]}', "pairs[0]"),
        (own.Chunks, b'{"model":"m","document":"a","spans":[[0,1],[0,"1"]]}', "spans[1][1] is a text"),
        (rerank.Rerank, b'{"query":"a","documents":["a",{"title":"b"}]}', "documents[1] is an object without text"),
        (rerank.Rerank, b'{"query":"a","documents":["a",{"text":3}]}', "documents[1].text is a number"),
        (openai.Embeddings, b'{"input":"x","dimensions":1e999}', "dimensions is out of range"),
        (openai.Embeddings, b'{"input":"x","normalize":1e999}', "normalize is"),
        (openai.Embeddings, b"[]", "no object"),
        (openai.Embeddings, b"", "no JSON"),
        (openai.Embeddings, b"null", "no object"),
        (openai.Embeddings, '{"input":"a"}'.encode("utf-16"), "no JSON"),
    ],
)  # fmt: skip
def test_the_field_and_the_entry_are_named(request_of: Any, content: bytes, says: str) -> None:
    assert says in refused(content, request_of)


def test_counts_are_right_where_texts_have_quotes() -> None:
    texts = ['"' * 50, "\\" * 7 + '"', 'a"b\\"', ""] * 2
    asked = read(rerank.Rerank, json.dumps({"query": "a", "documents": texts}).encode(), 8)
    assert isinstance(asked, rerank.Rerank)
    assert asked.documents == texts
    for name, request in (("input", openai.Embeddings), ("texts", own.Embed)):
        filled = [text or "x" for text in texts]
        content = json.dumps({name: filled, "model": "m"}).encode()
        assert getattr(read(request, content, 8), name) == filled
        assert "has 8 texts, more than max_texts=7" in refused(content, request, 7)
    pairs = [[text, text] for text in texts]
    content = json.dumps({"model": "m", "pairs": pairs}).encode()
    assert "has 8 pairs, more than max_texts=7" in refused(content, own.Score, 7)


@pytest.mark.parametrize(
    ("path", "body", "says"),
    [
        ("/v1/embeddings", {"input": "x", "truncate_prompt_tokens": 5}, "truncate_prompt_tokens is 5"),
        ("/v1/embeddings", {"input": "x", "truncate": "START"}, "truncate is 'START'"),
        ("/v1/embeddings", {"input": "x", "late_chunking": True}, "late_chunking is true"),
        ("/v1/embeddings", {"input": "x", "embedding_type": "binary"}, "'embedding_type' = 'binary'"),
        ("/v1/embeddings", {"input": "x", "normalized": False}, "normalized is false"),
        ("/v1/embeddings", {"input": "x", "add_special_tokens": False}, "add_special_tokens is false"),
        ("/v1/embeddings", {"input": "x", "dimensions": 0}, "dimensions is 0"),
        ("/v1/embeddings", {"input": "x", "dimensions": True}, "dimensions is true"),
        ("/v1/embeddings", {"input": "x", "instruction": "i"}, "instruction is for queries"),
        ("/embed", {"inputs": "x", "normalize": False}, "normalize is false"),
        ("/embed", {"inputs": "x", "truncation_direction": "Left"}, "truncation_direction is 'left'"),
        ("/embed", {"inputs": {"source_sentence": "a", "sentences": ["b"]}}, "inputs is an object"),
        ("/v1/rerank", {**RERANK, "rank_fields": ["title"]}, "rank_fields is a list"),
        ("/v1/rerank", {**RERANK, "max_tokens_per_doc": 100}, "max_tokens_per_doc is 100"),
        ("/v1/rerank", {**RERANK, "top_n": -1}, "top_n is -1"),
        ("/v1/rerank", {**RERANK, "top_n": True}, "top_n is true"),
        ("/v1/rerank", {**RERANK, "top_n": 1, "top_k": 2}, "top_n and top_k mean the same"),
        ("/v1/rerank", {**RERANK, "return_documents": "maybe"}, "return_documents is 'maybe'"),
        ("/v1/rerank", {**RERANK, "query": " "}, "query is an empty text"),
        ("/rerank", {"query": "", "texts": DOCUMENTS}, "query is an empty text"),
        ("/rerank", {"query": "茶", "texts": DOCUMENTS, "return_text": "maybe"}, "return_text is 'maybe'"),
        ("/score", {"text_1": "", "text_2": DOCUMENTS}, "text_1 is an empty text"),
        ("/score", {"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 9}, "truncate_prompt_tokens is 9"),
    ],
)  # fmt: skip
def test_what_would_change_the_result_is_refused_before_any_work(
    server: Server, path: str, body: Any, says: str
) -> None:
    before = len(ENCODER.calls), len(RERANKER.calls)
    answer = server.post(path, body)
    assert answer.status_code in (400, 422)
    assert says in message(answer)
    assert (len(ENCODER.calls), len(RERANKER.calls)) == before


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/embeddings", {"input": "x", "model": "", "user": "u", "nobody knows": [[]]}),
        ("/v1/embeddings", {"input": "x", "truncate": "END", "truncate_prompt_tokens": -1}),
        ("/v1/embeddings", {"input": "x", "truncation": True, "normalized": True, "late_chunking": False}),
        ("/v1/embeddings", {"input": "x", "input_type": "QUERY", "dimensions": "384", "encoding_format": None}),
        ("/v1/embeddings", {"input": "x", "truncate": "NONE"}),
        ("/embed", {"inputs": "x", "truncation_direction": "Right", "normalize": True}),
        ("/v1/rerank", {**RERANK, "model": "", "rank_fields": ["text"], "max_tokens_per_doc": 4096}),
        ("/score", {"text_1": "a", "text_2": ["", "b"]}),
    ],
)
def test_what_other_servers_take_is_taken(server: Server, path: str, body: Any) -> None:
    answer = server.post(path, body)
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(("top", "many"), [("2", 2), (2.0, 2), (0, 3), (None, 3), (10**30, 3)])
def test_a_number_is_one_in_any_spelling(server: Server, top: Any, many: int) -> None:
    for name in ("top_n", "top_k"):
        assert len(server.post("/v1/rerank", {**RERANK, name: top}).json()["results"]) == many


def test_embedding_type_is_base64_too(server: Server) -> None:
    asked = [{"input": "x", name: "base64"} for name in ("encoding_format", "embedding_type")]
    first, second = (server.post("/v1/embeddings", body).json()["data"] for body in asked)
    assert isinstance(first[0]["embedding"], str)
    assert first == second


@pytest.mark.parametrize(
    ("body", "side", "embedded"),
    [
        ({"input": ["query: 绿茶", "query: 红茶"]}, "query", ("绿茶", "红茶")),  # one name for both sides
        ({"input": ["query: 绿茶", "红茶"]}, "document", ("query: 绿茶", "红茶")),
        ({"input": ["query: 绿茶"], "input_type": "document"}, "document", ("query: 绿茶",)),
        ({"input": ["query: 绿茶", "红茶"], "input_type": "query"}, "query", ("绿茶", "红茶")),
        ({"input": ["passage: 绿茶"], "input_type": "passage"}, "document", ("绿茶",)),
        ({"input": ["query: "], "input_type": "query"}, "query", ("query: ",)),
    ],
)
def test_a_prompt_that_a_text_brings_along_is_not_put_there_twice(
    server: Server, body: Any, side: str, embedded: tuple[str, ...]
) -> None:
    answer = server.post("/v1/embeddings", body)
    assert answer.status_code == 200
    assert answer.headers["x-side"] == side
    assert ENCODER.calls[-1] == embedded


def packed(server: Server, content: bytes) -> httpx.Response:
    headers = {"content-encoding": "gzip", "content-type": "application/json"}
    return httpx.post(f"{server.url}/v1/embeddings", content=content, headers=headers, timeout=60)


def test_gzip_may_have_members_but_no_rest(server: Server) -> None:
    whole = gzip.compress(b'{"input":["a",') + gzip.compress(b'"b"]}')
    assert len(packed(server, whole).json()["data"]) == 2
    for content, says in (
        (whole + b"rest", "no gzip"), (whole[:-3], "too early"), (b"{}", "no gzip"), (b"", "no JSON"),
        (gzip.compress(b"") * 1000 + whole, "members"), (gzip.compress(b""), "no JSON"),
    ):  # fmt: skip
        answer = packed(server, content)
        assert answer.status_code == 400
        assert says in message(answer)


def test_gzip_is_unpacked_up_to_the_limit_only(server: Server) -> None:
    fits = packed(server, gzip.compress(json.dumps({"input": "a" * 900_000}).encode()))
    assert fits.status_code == 200
    bomb = gzip.compress(b'{"input":"' + b"a" * 50_000_000 + b'"}', 1)
    for content in (bomb, gzip.compress(bomb[:1] * 1_000_001)):
        answer = packed(server, content)
        assert answer.status_code == 413
        assert "max_body_bytes=1000000" in message(answer)


def test_a_declared_length_is_refused_before_the_body_is_read(server: Server) -> None:
    import socket

    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), 10) as connection:
        connection.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: x\r\nContent-Length: 2000000\r\n\r\n{")
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


def test_bytes_of_bodies_under_way_are_bounded() -> None:
    fake = HeldEncoder()
    settings = Settings(handles={"fake": fake}, max_body_bytes=1000, max_pending_bytes=2000)
    with serving(settings) as server:
        body = {"input": "a" * 900}
        threads = [threading.Thread(target=server.post, args=("/v1/embeddings", body)) for _ in range(2)]
        for thread in threads:
            thread.start()
        wait_until(lambda: fake.under_way == 2)
        answer = server.post("/v1/embeddings", body)
        assert answer.status_code == 429
        assert int(answer.headers["retry-after"]) >= 1
        fake.holds = False
        for thread in threads:
            thread.join()
        assert server.post("/v1/embeddings", body).status_code == 200
        running = server.app._running
        assert running is not None
        wait_until(lambda: running.bodies.held == 0)  # a client may read its answer before the server lets go of it
    with pytest.raises(ConfigError, match="max_pending_bytes=999"):
        Settings(handles={"fake": fake}, max_body_bytes=1000, max_pending_bytes=999)


@pytest.mark.slow
def test_tokenizing_has_limits() -> None:
    with serving(Settings(("e5-small-zh",))) as server:
        for inputs, says in (
            (["a ", "茶" * 100_001], "A text of inputs has 100001 characters, more than the 100000"),
            (["茶" * 100_000] * 12, "inputs has 1200000 characters, more than the 1100000"),
        ):
            answer = server.post("/tokenize", {"inputs": inputs})
            assert answer.status_code == 413
            assert says in message(answer)
        tokens = server.post("/tokenize", {"inputs": ["绿茶 a", "好" * 3000], "add_special_tokens": False}).json()
        assert tokens[1][-1]["stop"] == 3000
        for text, row in zip(("绿茶 a", "好" * 3000), tokens, strict=True):
            assert all(text[token["start"] : token["stop"]] == token["text"] for token in row)
        assert server.app._running is not None
        tokenizing = server.app._running.tokenizing
        tokenizing._waiting = 2_199_999
        assert server.post("/tokenize", {"inputs": "ab"}).status_code == 429
        tokenizing._waiting = 0
        with_ends = server.post("/tokenize", {"inputs": ""})
        assert with_ends.status_code in (400, 422)


def test_whatever_is_asked_has_an_id_a_log_line_and_a_number(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", "zh_retrieval")
    asked = [
        ("DELETE", "/v1/embeddings", 405),
        ("GET", "/rerank", 405),
        ("OPTIONS", "/embed", 204),
        ("GET", "/none", 404),
    ]
    for method, path, status in asked:
        answer = httpx.request(method, server.url + path, headers={"x-request-id": "mine", "host": "["})
        assert answer.status_code == status
        assert answer.headers["x-request-id"] == "mine"
        if status == 405:
            assert answer.headers["allow"] == "OPTIONS, POST"
            assert "POST" in message(answer)
    wait_until(lambda: sum("mine" in str(vars(record)) for record in caplog.records) == len(asked))
    assert 'requests_total{route="other",status="405"} 2.0' in server.get("/metrics").text
    assert httpx.head(server.url + "/livez").status_code == 200
    assert httpx.request("OPTIONS", server.url + "/").headers["allow"] == "GET, HEAD, OPTIONS, POST"


def test_info_has_no_numbers_that_nothing_stands_behind(server: Server) -> None:
    info = server.get("/info").json()
    assert {name for name, value in info.items() if type(value) is int} == {"max_input_length", "max_client_batch_size"}


def test_openapi_has_the_fields_that_are_read() -> None:
    for keys in ((), ("k",)):
        settings = Settings(handles=SETTINGS.handles, keys=keys)
        with serving(settings) as server:
            document, page = server.get("/openapi.json").json(), server.get("/docs").text
            auth = server.get("/v1/cluster/auth").json()
        lines = re.findall(r"curl [^\n]*", page)
        assert lines
        assert all(("Authorization: Bearer" in line) == bool(keys) for line in lines)
        assert auth == {"auth": bool(keys)}
    for route in routes_of(SETTINGS):
        if route.requests is None:
            assert route.method == "GET"
            continue
        body = document["paths"][route.path]["post"]["requestBody"]["content"]["application/json"]
        several = not isinstance(route.requests, type)
        schemas = body["schema"]["oneOf"] if several else [body["schema"]]
        for request, schema in zip(route.requests.values() if several else [route.requests], schemas, strict=True):
            names = {name for attribute, (kind, _) in kinds(request).items() for name in (attribute, *kind.also)}
            assert set(schema["properties"]) == names | set(request.others)
            assert all(field["description"] for field in schema["properties"].values())
        assert set(body["example"]) <= set().union(*(schema["properties"] for schema in schemas))


def test_every_dialect_says_which_question_has_no_score() -> None:
    assert "query is an empty text" in refused(b'{"query":"","texts":["a"]}', tei.Rerank)
    assert "query is an empty text" in refused(rb'{"query":" \n ","documents":["a"]}', rerank.Rerank)
    assert "queries is an empty text" in refused(b'{"queries":"","documents":["a"]}', score.Score)
