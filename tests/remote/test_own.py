"""Remote handles against a server of our own dialect, well and badly behaved."""

import asyncio
import os
import threading
import time

import numpy as np
import pytest

import zh_retrieval as zr
from tests.remote.stub import described, own, reply, scores_of, serving, vector, vectors_of

TEXTS = [f"第{number}种茶" * (number + 1) for number in range(10)]
WANTED = np.stack([vector(text) for text in TEXTS])


def encoder(url, **options):
    return zr.load_encoder("bge-base-zh", base_url=url, **options)


def test_batches_split_by_the_servers_limits_come_back_in_order():
    def late_first(body):
        time.sleep(0.1 if body["texts"][0] == TEXTS[0] else 0)
        return vectors_of(body["texts"])

    with serving(own(late_first)) as (url, stub), encoder(url) as handle:
        np.testing.assert_allclose(handle.encode_documents(TEXTS), WANTED)
        assert sorted(len(body["texts"]) for _, _, _, body in stub.asked[1:]) == [1, 3, 3, 3]
        assert handle.encode_documents([]).shape == (0, 768)
        assert (handle.dimension, handle.max_length, handle.dtype) == (768, 512, "bfloat16")


def test_large_texts_are_split_by_bytes():
    with serving(own()) as (url, stub), encoder(url) as handle:
        handle.encode_documents(["茶" * 20_000] * 3)  # 60 kB each, 100 kB are allowed
    assert [len(body["texts"]) for _, _, _, body in stub.asked[1:]] == [1, 1, 1]


def test_sides_and_instructions_travel():
    with serving(own()) as (url, stub), encoder(url) as handle:
        handle.encode_queries(["茶"], instruction="找：")
        handle.encode_queries(["茶"])
        handle.encode_documents(["茶"])
        asyncio.run(handle.aencode_queries(["茶"]))
    bodies = [(body["side"], body.get("instruction")) for _, _, _, body in stub.asked[1:]]
    assert bodies == [("query", "找："), ("query", None), ("document", None), ("query", None)]


def test_concurrent_callers_in_threads_and_loops_share_one_handle():
    with serving(own()) as (url, _), encoder(url) as handle:
        found = {}

        def ask(row):
            found[row] = (
                asyncio.run(handle.aencode_documents([TEXTS[row]]))
                if row % 2
                else handle.encode_documents([TEXTS[row]])
            )

        threads = [threading.Thread(target=ask, args=(row,)) for row in range(10)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    np.testing.assert_allclose(np.concatenate([found[row] for row in range(10)]), WANTED)


def test_a_cancelled_task_leaves_no_request_behind():
    begun, closed = threading.Event(), threading.Event()

    def slow(body):
        begun.set()
        time.sleep(0.5)
        return reply(b"0" * 900_000)  # more than fits a socket's buffers: who left is found out

    with serving(own(slow)) as (url, stub), encoder(url) as handle:

        async def asked():
            task = asyncio.ensure_future(handle.aencode_documents(TEXTS))
            await asyncio.to_thread(begun.wait, 10)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            ticks = 0
            for _ in range(20):
                await asyncio.sleep(0.005)
                ticks += 1
            return ticks

        assert asyncio.run(asked()) == 20
        assert stub.hung_up.wait(10)
        assert len([path for path in stub.paths() if path.endswith("embed")]) <= 4
        closed.set()


@pytest.mark.slow
@pytest.mark.parametrize("status", [408, 429, 502, 503, 504])
def test_what_passes_is_tried_again_after_the_time_that_the_server_says(status):
    times = []

    def busy(body):
        times.append(time.monotonic())
        if len(times) == 1:
            return reply({"error": {"type": "OverloadedError", "message": "later"}}, status, retry_after="1")
        return vectors_of(body["texts"])

    with serving(own(busy)) as (url, _), encoder(url) as handle:
        np.testing.assert_allclose(handle.encode_documents(TEXTS[:1]), WANTED[:1])
    assert times[1] - times[0] >= 1.0


def test_a_server_that_is_busy_for_ever_is_given_up_in_time():
    with (
        serving(
            own(lambda body: reply({"error": {"type": "OverloadedError", "message": "full"}}, 429, retry_after="60"))
        ) as (url, stub),
        encoder(url, timeout=2) as handle,
    ):
        start = time.monotonic()
        with pytest.raises(zr.OverloadedError, match="full"):
            handle.encode_documents(["茶"])
        assert time.monotonic() - start < 1.5  # nobody waits 60 s for a patience of 2
        assert len(stub.asked) == 2


def test_a_connection_that_breaks_is_tried_again():
    tries = []

    def breaks(body):
        tries.append(body)
        if len(tries) == 1:
            return None
        if len(tries) == 2:
            return reply(vectors_of(body["texts"])[2][:7], **{"content-length": "3072"})  # half a body
        return vectors_of(body["texts"])

    with serving(own(breaks)) as (url, _), encoder(url) as handle:
        np.testing.assert_allclose(handle.encode_documents(TEXTS[:1]), WANTED[:1])
    assert len(tries) == 3


def test_a_slow_server_is_given_up():
    def slow(body):
        time.sleep(1.5)
        return vectors_of(body["texts"])

    with (
        serving(own(slow)) as (url, _),
        encoder(url, timeout=0.3) as handle,
        pytest.raises(zr.RemoteError, match=r"did not answer within 0\.3 s"),
    ):
        handle.encode_documents(["茶"])


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"\0" * 12, "12 bytes for 1 results of 768"),
        (b"\0" * 9_000_000, "answered with more than 1003072 bytes"),
        (np.zeros(768, "<f4").tobytes(), "not length 1"),
        (np.full(768, np.nan, "<f4").tobytes(), "NaN"),
        (np.full(768, np.inf, "<f4").tobytes(), "NaN or Inf"),
        (b"<html>Sign in</html>", "bytes for 1 results"),
    ],
)
def test_what_is_no_vector_is_an_error(body, message):
    with (
        serving(own(lambda _: reply(body))) as (url, _),
        encoder(url) as handle,
        pytest.raises(zr.RemoteError, match=message),
    ):
        handle.encode_documents(["茶"])


def test_weights_that_change_between_two_batches_are_not_mixed():
    turns = iter(["w1", "w1", "w2"])
    with (
        serving(own(lambda body: vectors_of(body["texts"], **{"x-weights": next(turns)}))) as (url, _),
        encoder(url) as handle,
    ):
        handle.encode_documents(TEXTS[:3])
        handle.encode_documents(TEXTS[:3])
        with pytest.raises(zr.RemoteError, match="other weights"):
            handle.encode_documents(TEXTS[:3])


@pytest.mark.parametrize(
    ("models", "error", "message"),
    [
        (described("bge-large-zh"), zr.UnknownModelError, "does not serve bge-base-zh-v1.5. It serves: bge-large-zh"),
        (described(recipe="0" * 16), zr.ConfigError, "another recipe"),
        ({"models": [{"id": "bge-base-zh-v1.5"}]}, zr.RemoteError, "does not answer as zh-retrieval serve"),
        ([1], zr.RemoteError, "dialect='tei'"),
    ],
)
def test_the_handshake_refuses_what_does_not_fit(models, error, message):
    with serving(own(models=models)) as (url, _), pytest.raises(error, match=message):
        encoder(url)


def test_another_dimension_than_the_recipes_is_refused_unless_it_is_asked_for():
    small = own(lambda body: reply(np.eye(1, 6, dtype="<f4").tobytes()), models=described(dimension=6))
    with serving(small) as (url, _):
        with pytest.raises(zr.ConfigError, match="vectors of 6 numbers"):
            encoder(url)
        with encoder(url, dimensions=6) as handle:  # a copy of another size
            assert handle.encode_documents(["茶"]).shape == (1, 6)


def test_an_html_page_or_a_redirect_is_no_server_of_ours():
    def page(path, headers, body):
        return 200, {"content-type": "text/html"}, b"<html>Sign in</html>"

    with serving(page) as (url, _), pytest.raises(zr.RemoteError, match="text/html"):
        encoder(url)
    with (
        serving(lambda *_: reply({}, 302, location="http://127.0.0.1:1/")) as (url, _),
        pytest.raises(zr.RemoteError, match="302"),
    ):
        encoder(url)


def test_an_address_where_nobody_listens_is_said_soon():
    start = time.monotonic()
    with pytest.raises(zr.RemoteError, match="cannot be reached"):
        encoder("http://127.0.0.1:9")
    assert time.monotonic() - start < 5


def test_errors_of_the_server_are_ours_again():
    said = {"error": {"type": "InputError", "message": "texts[0] is wrong"}}
    with (
        serving(own(lambda body: reply(said, 400))) as (url, stub),
        encoder(url) as handle,
        pytest.raises(zr.InputError, match=r"texts\[0\] is wrong"),
    ):
        handle.encode_documents(["茶"])
    assert len(stub.asked) == 2  # a fault of the caller is not tried again


def test_wrong_input_is_refused_here():
    with serving(own()) as (url, stub), encoder(url) as handle:
        for texts in ("茶", ["茶", 1], ["\ud83d"], None):
            with pytest.raises(zr.InputError):
                handle.encode_documents(texts)
        with pytest.raises(zr.ConfigError, match="late chunking needs mean"):
            handle.encode_chunks("茶", [(0, 1)])
    assert stub.paths() == ["/v1/zh-retrieval/models"]


def test_cuts_are_said_once_or_are_an_error(caplog):
    cut = own(lambda body: vectors_of(body["texts"], **{"x-truncated": str(len(body["texts"]))}))
    with serving(cut) as (url, _):
        with encoder(url) as handle:
            handle.encode_documents(TEXTS)
        [record] = caplog.records
        assert "10 of 10 texts were cut to 512 tokens by http://127.0.0.1" in record.getMessage()
        with encoder(url, overflow="error") as handle, pytest.raises(zr.InputError, match="10 of 10"):
            handle.encode_documents(TEXTS)


def test_options_of_the_server_are_refused_here():
    with serving(own()) as (url, _):
        with pytest.raises(zr.ConfigError, match="dtype, path: the server decides"):
            encoder(url, path="/x", dtype="float32")
        with pytest.raises(zr.ConfigError, match="start it with --overflow window"):
            zr.load_reranker("bge-reranker-large", base_url=url, overflow="window")


def test_what_the_environment_says_of_local_models_is_no_obstacle(monkeypatch):
    monkeypatch.setenv("ZH_RETRIEVAL_DEVICE", "cuda")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with serving(own()) as (url, _), encoder(url) as handle:
        assert handle.encode_documents(["茶"]).shape == (1, 768)


@pytest.mark.parametrize("end", ["", "/", "/v1", "/v1/", "/v1/embeddings"])
def test_every_way_to_write_the_address_is_right(end):
    with serving(own()) as (url, stub), encoder(url + end) as handle:
        handle.encode_documents(["茶"])
    assert set(stub.paths()) == {"/v1/zh-retrieval/models", "/v1/zh-retrieval/embed"}


def test_a_path_before_ours_stays():
    with serving(own()) as (url, stub), encoder(f"{url}/gpu/one/") as handle:
        handle.encode_documents(["茶"])
    assert stub.paths()[0] == "/gpu/one/v1/zh-retrieval/models"


@pytest.mark.parametrize("address", ["gpu:8080", "ftp://gpu", "http://", "http://gpu?x=1", 8080, "http://gpu:99999"])
def test_what_is_no_address_is_said(address):
    with pytest.raises(zr.ConfigError, match="is no address of a server"):
        encoder(address)


def test_a_reranker_scores_and_ranks():
    pairs = [("茶", "好茶"), ("什么茶", "茶"), ("茶", "茶")]
    with serving(own(models=described("bge-reranker-large"))) as (url, _):
        with zr.load_reranker("bge-reranker-large", base_url=url) as handle:
            assert handle.score(pairs).tolist() == [-1, 2, 0]
            assert asyncio.run(handle.ascore(pairs)).tolist() == [-1, 2, 0]
            assert [entry.index for entry in handle.rank("茶", ["好好茶", "茶", "好茶"])] == [1, 2, 0]
            assert handle.score([]).shape == (0,)
            with pytest.raises(zr.InputError, match=r"pairs\[1\]"):
                handle.score([("a", "b"), ("a",)])
        with pytest.raises(zr.WrongTaskError):
            zr.load_encoder("bge-reranker-large", base_url=url)


def test_a_closed_handle_takes_no_more():
    with serving(own()) as (url, _):
        handle = encoder(url)
        handle.close()
        handle.close()
        assert handle.closed
        with pytest.raises(zr.ClosedError):
            handle.encode_documents(["茶"])


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_and_its_parent_both_go_on():
    with serving(own()) as (url, _), encoder(url) as handle:
        handle.encode_documents(["茶"])
        child = os.fork()
        if child == 0:
            try:
                found = handle.encode_documents(TEXTS)
                os._exit(0 if np.allclose(found, WANTED) else 1)
            finally:
                os._exit(2)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        np.testing.assert_allclose(handle.encode_documents(TEXTS), WANTED)


def test_a_proxy_for_the_internet_is_not_asked_for_a_near_server(monkeypatch):
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    with serving(own()) as (url, _), encoder(url) as handle:
        assert handle.encode_documents(["茶"]).shape == (1, 768)


def test_scores_that_are_no_numbers_are_an_error():
    bad = own(models=described("bge-reranker-large"), score=lambda body: scores_of(body["pairs"] * 2))
    with (
        serving(bad) as (url, _),
        zr.load_reranker("bge-reranker-large", base_url=url) as handle,
        pytest.raises(zr.RemoteError, match="8 bytes for 1 results"),
    ):
        handle.score([("茶", "好茶")])


@pytest.mark.parametrize("query", ["", " \u3000"])
def test_an_empty_query_has_no_score_there_either(query):
    with (
        serving(own(models=described("bge-reranker-large"))) as (url, stub),
        zr.load_reranker("bge-reranker-large", base_url=url) as handle,
    ):
        with pytest.raises(zr.InputError, match=r"pairs\[1\] has an empty query"):
            handle.score([("茶", "好茶"), (query, "茶")])
        with pytest.raises(zr.InputError, match="query is empty"):
            handle.rank(query, ["茶"])
        assert len(stub.asked) == 1
