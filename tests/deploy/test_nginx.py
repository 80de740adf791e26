"""A real nginx, with the prefix of the sample, before a real server."""

import re
import shutil
import socket
import subprocess
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

import zh_retrieval as zr
from tests.server.serving import serving, wait_until
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder

SAMPLE = Path(zr.__file__).parents[1] / "deploy" / "nginx.conf"
WHOLE = """
daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1;
events {{}}
http {{
  access_log off; default_type text/plain;
  client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
  uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
  include {folder}/sample.conf;
}}
"""


@contextmanager
def nginx(folder, ports):
    """Run nginx with the sample before servers at two ports, and give its address."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        pytest.skip("no nginx installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        own = free.getsockname()[1]
    sample = SAMPLE.read_text(encoding="utf-8")
    for said, here in (("127.0.0.1:8081", ports[0]), ("127.0.0.1:8082", ports[1]), ("listen 80;", own)):
        assert sample.count(said) == 1
        sample = sample.replace(said, f"listen 127.0.0.1:{here};" if here == own else f"127.0.0.1:{here}")
    (folder / "sample.conf").write_text(sample)
    (folder / "nginx.conf").write_text(WHOLE.format(folder=folder))
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    assert subprocess.run([*command, "-t"], check=False, capture_output=True).returncode == 0
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def listens():
        with socket.socket() as line:
            return line.connect_ex(("127.0.0.1", own)) == 0

    try:
        wait_until(listens)
        yield f"http://127.0.0.1:{own}"
    finally:
        process.terminate()
        process.wait(10)


@pytest.mark.slow
def test_below_a_prefix_everything_works_and_health_stays_inside(tmp_path):
    with (
        serving(Settings(handles={"fake": FakeEncoder()}, keys=("sesame",))) as server,
        nginx(tmp_path, [server.url.rpartition(":")[2]] * 2) as url,
        httpx.Client(base_url=url, headers={"authorization": "Bearer sesame"}) as client,
    ):
        body = {"model": "fake", "input": ["西湖在哪里？"] * 3}
        answer = client.post("/retrieval/v1/embeddings", json=body)
        assert len(answer.json()["data"]) == 3
        assert re.fullmatch(r"[0-9a-f]{32}", answer.headers["x-request-id"])
        assert client.get("/retrieval").headers["location"].endswith("/retrieval/")
        shown = client.get("/retrieval/", headers={"accept": "text/html"})
        links = re.findall(r'(?:src|href)="(?!data:)([^"#]+)"', shown.text)
        assert any("page.js" in link for link in links)
        for link in links:
            assert not link.startswith("/")
            assert client.get(httpx.URL(f"{url}/retrieval/").join(link)).status_code == 200
        for inside in ("metrics", "readyz", "livez", "health", "ping"):
            assert client.get(f"/retrieval/{inside}").status_code == 404
        assert client.get("/retrieval/docs").status_code == 200
        assert client.post("/retrieval/v1/embeddings", content=b"x" * 4_300_000).status_code == 413
        assert client.post("/retrieval/v1/embeddings", json=body, headers={"authorization": ""}).status_code == 401
