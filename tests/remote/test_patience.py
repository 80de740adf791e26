"""How long a server is waited for, whatever it says; and which way leads to it."""

import time

import pytest

import zh_retrieval as zr
from tests.remote.stub import own, reply, serving
from zh_retrieval.remote.address import Address
from zh_retrieval.remote.backoff import Backoff, retry_after

BUSY = {"error": {"type": "OverloadedError", "message": "full"}}
PAST = "Wed, 21 Oct 2015 07:28:00 GMT"


@pytest.mark.parametrize(
    "said", ["0", "-1", "nan", "inf", "-inf", "1e-9", "", "abc", PAST, "Wed, 21 Oct 99999 07:28:00"]
)
def test_nobody_is_talked_into_hammering(said):
    backoff = Backoff()
    pauses = [backoff.after(retry_after(said)) for _ in range(12)]
    assert all(pause >= 0.1 for pause in pauses)
    assert sum(pauses[:5]) >= 3
    assert max(pauses) <= 30


def test_a_server_that_asks_for_time_gets_it():
    assert Backoff().after(retry_after("7")) == 7
    assert retry_after("Fri, 31 Dec 2100 23:59:59 GMT") > 1e6


@pytest.mark.parametrize("said", ["0", "nan", PAST, "1e300"])
def test_a_busy_server_is_asked_a_few_times_and_ends_as_busy(said):
    with (
        serving(own(lambda body: reply(BUSY, 429, retry_after=said))) as (url, stub),
        zr.load_encoder("bge-base-zh", base_url=url, timeout=1) as handle,
    ):
        start = time.monotonic()
        with pytest.raises(zr.OverloadedError, match="full"):
            handle.encode_documents(["茶"])
        assert time.monotonic() - start < 1.5
        assert len(stub.asked) <= 5


def test_a_server_that_is_busy_and_then_silent_was_busy():
    asked = []

    def busy(body):
        asked.append(body)
        if len(asked) > 1:
            time.sleep(1)
        return reply(BUSY, 503)

    with (
        serving(own(busy)) as (url, _),
        zr.load_encoder("bge-base-zh", base_url=url, timeout=0.6) as handle,
        pytest.raises(zr.OverloadedError, match="full"),
    ):
        handle.encode_documents(["茶"])


@pytest.mark.parametrize("body", [b"\x1f\x8bnot gzip", b"[" * 200_000], ids=["broken compression", "deeply nested"])
def test_what_cannot_be_read_is_an_error_of_ours(body):
    packed = {"content-encoding": "gzip"} if body.startswith(b"\x1f") else {}

    def answer(path, headers, sent):
        return 200, {"content-type": "application/json", **packed}, body

    with serving(answer) as (url, stub), pytest.raises(zr.RemoteError):
        zr.load_encoder("bge-base-zh", base_url=url, timeout=5)
    assert len(stub.asked) == 1


@pytest.mark.parametrize(
    "environment",
    [
        {"ALL_PROXY": "socks://127.0.0.1:9"},
        {"ALL_PROXY": "socks5h://127.0.0.1:9"},
        {"HTTP_PROXY": "http://127.0.0.1:9", "NO_PROXY": "localhost,[::1]"},
        {"HTTPS_PROXY": "nonsense://["},
    ],
)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_near_server_needs_no_environment(environment, host, monkeypatch):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
        monkeypatch.setenv(name.lower(), value)
    with (
        serving(own()) as (url, _),
        zr.load_encoder("bge-base-zh", base_url=url.replace("127.0.0.1", host)) as handle,
    ):
        assert handle.encode_documents(["茶"]).shape == (1, 768)


@pytest.mark.parametrize(
    ("host", "near"),
    [
        ("127.0.0.1", True), ("[::1]", True), ("10.1.2.3", True), ("192.168.0.4", True), ("[fe80::1]", True),
        ("[::ffff:127.0.0.1]", True), ("gpu", True), ("localhost.", True), ("a.localhost", True), ("x.internal", True),
        ("8.8.8.8", False), ("api.example.com", False), ("[2606:4700::1111]", False), ("10.example.com", False),
    ],
)  # fmt: skip
def test_which_addresses_are_near(host, near):
    assert Address(f"http://{host}:8080").is_near is near


def test_a_proxy_leads_to_far_servers_and_one_that_cannot_be_used_is_said(monkeypatch):
    for name in ("http_proxy", "no_proxy", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    far = "http://api.example.com"
    monkeypatch.setenv("http_proxy", "127.0.0.1:7890")
    assert Address(far).proxy() == "http://127.0.0.1:7890"
    monkeypatch.setenv("no_proxy", "[::1],example.com")
    assert Address(far).proxy() is None
    monkeypatch.setenv("no_proxy", "[::1]")
    monkeypatch.setenv("http_proxy", "socks://me:geheim@127.0.0.1:9")
    with pytest.raises(zr.ConfigError, match=r"a socks:// proxy for http://api.example.com that cannot") as caught:
        zr.load_encoder("bge-base-zh", base_url=far)
    assert "geheim" not in str(caught.value)


def test_a_clients_key_is_the_first_of_a_servers_list(monkeypatch):
    with serving(own()) as (url, stub):
        monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", " one , two")
        zr.load_encoder("bge-base-zh", base_url=url).close()
        assert stub.asked[-1][2]["authorization"] == "Bearer one"
        monkeypatch.setenv("ZH_RETRIEVAL_API_KEY", " , ")
        with pytest.raises(zr.ConfigError, match="ZH_RETRIEVAL_API_KEY is set and holds no key"):
            zr.load_encoder("bge-base-zh", base_url=url)
