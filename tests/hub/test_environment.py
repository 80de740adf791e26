"""What the environment says about the network: switches that forbid it, proxies that cannot work."""

import json
import socket
import sys
import time

import pytest

import zh_retrieval as zr
from tests.modelscope_stub import Stub, serve
from zh_retrieval.cli.main import main
from zh_retrieval.hub import download
from zh_retrieval.hub.proxy import proxy_problem
from zh_retrieval.hub.retry import _line
from zh_retrieval.options import LoadOptions, offline, offline_switch

SPEC = zr.get_spec("bge-large-zh")
SWITCHES = ("ZH_RETRIEVAL_OFFLINE", "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
PROXIES = ("ALL_PROXY", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch):
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def stub(monkeypatch):
    with serve(Stub({})) as running:
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", running.url)
        monkeypatch.setenv("HF_ENDPOINT", running.url)
        yield running


@pytest.mark.parametrize("value", ["1", "true", "YES", "on"])
@pytest.mark.parametrize("switch", SWITCHES)
def test_each_switch_forbids_the_network(stub, tmp_path, monkeypatch, switch, value):
    monkeypatch.setenv(switch, value)
    assert offline()
    assert LoadOptions.given().local_files_only
    with pytest.raises(zr.DownloadError, match=rf"network is not to be used \({switch}\)"):
        download.fetch(SPEC, cache_dir=tmp_path)
    with pytest.raises(zr.DownloadError, match="network is not to be used"):
        zr.load_encoder(SPEC.name, cache_dir=tmp_path)
    assert stub.requests == []


@pytest.mark.parametrize("value", ["", "0", "false", "no", "off"])
def test_a_switch_that_is_off_forbids_nothing(monkeypatch, value):
    for switch in SWITCHES:
        monkeypatch.setenv(switch, value)
    assert offline_switch() is None


def test_doctor_names_the_switch_and_asks_no_hub(stub, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert main(["doctor", "--json", "--cache-dir", str(tmp_path)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert "HF_HUB_OFFLINE is set: nothing is downloaded." in report["advice"]
    assert report["hubs"] == {"modelscope": None, "huggingface": None}


# --- proxies: neither PySocks nor socksio is installed beside the tests ---------------------------------------------


@pytest.fixture
def bare(monkeypatch):
    monkeypatch.setitem(sys.modules, "socks", None)
    monkeypatch.setitem(sys.modules, "socksio", None)


@pytest.mark.parametrize("scheme", ["socks", "socks5", "socks5h", "SOCKS4"])
def test_a_socks_proxy_is_one_error_at_once(stub, tmp_path, monkeypatch, bare, pauses, scheme):
    monkeypatch.setenv("ALL_PROXY", f"{scheme}://user:secret@127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://hub.example")
    with pytest.raises(zr.DownloadError, match="install PySocks") as caught:
        download.fetch(SPEC, cache_dir=tmp_path, policy=pauses.policy)
    assert "it resumes" not in str(caught.value)
    assert "secret" not in str(caught.value)
    assert pauses.made == []
    assert list(tmp_path.iterdir()) == []


def test_doctor_says_what_a_proxy_lacks(tmp_path, monkeypatch, bare, capsys):
    monkeypatch.setenv("ALL_PROXY", "socks://127.0.0.1:9")
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://hub.example")
    monkeypatch.setenv("HF_ENDPOINT", "http://hub.example")
    assert main(["doctor", "--cache-dir", str(tmp_path)]) == 0
    drawn = capsys.readouterr().out
    assert "install PySocks (run: pip install PySocks) and write socks5h:// instead of socks://" in drawn
    assert 'pip install "httpx[socks]"' in drawn


@pytest.mark.parametrize(
    ("variables", "endpoint"),
    [
        ({}, "https://hub.example"), ({"ALL_PROXY": "http://127.0.0.1:9"}, "https://hub.example"),
        ({"HTTP_PROXY": "socks5://127.0.0.1:9"}, "https://hub.example"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9", "HTTPS_PROXY": "http://127.0.0.1:9"}, "https://hub.example"),
        ({"ALL_PROXY": "socks5://127.0.0.1:9", "NO_PROXY": "hub.example"}, "https://hub.example"),
    ],
)  # fmt: skip
def test_a_proxy_that_is_not_used_or_can_be_is_no_problem(monkeypatch, bare, variables, endpoint):
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert proxy_problem("modelscope", endpoint) is None


def test_a_hub_at_an_address_that_is_none_is_not_reachable(monkeypatch):
    monkeypatch.setenv("MODELSCOPE_ENDPOINT", "http://[not-an-address")
    assert download.reachable("modelscope") is False


def test_without_a_network_the_first_download_says_at_once_what_helps(monkeypatch, tmp_path, capfd):
    with socket.socket() as taken:  # a port where nobody listens
        taken.bind(("127.0.0.1", 0))
        monkeypatch.setenv("MODELSCOPE_ENDPOINT", f"http://127.0.0.1:{taken.getsockname()[1]}")
        start = time.monotonic()
        with pytest.raises(zr.DownloadError) as caught:
            zr.load_encoder("bge-base-zh", cache_dir=tmp_path)
        assert time.monotonic() - start < 3
    said = str(caught.value)
    for way in ("cannot be reached", "path=", "e5-small-zh is built in", "HTTPS_PROXY", "MODELSCOPE_ENDPOINT", "BAAI/"):
        assert way in said
    assert said.endswith(".")
    assert capfd.readouterr() == ("", "")


def test_a_long_message_of_a_client_is_cut_between_words():
    assert _line("a" * 9 + " " + "b" * 300) == "a" * 9 + " …"
    assert _line("a b") == "a b"
