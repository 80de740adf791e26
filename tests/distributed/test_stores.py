"""The page on stores: its lines fill a store that runs here, and all of them are Python."""

import json
import re
import tempfile
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

import zh_retrieval as zr
from zh_retrieval.cli.main import main

PAGE = Path(zr.__file__).parent / "distributed" / "stores.md"
BLOCKS = {name: code for code in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)
          for name in ("pymilvus", "psycopg", "elasticsearch") if f" {name} " in code.replace("\n", " \n")}  # fmt: skip


def test_every_block_is_python():
    assert set(BLOCKS) == {"pymilvus", "psycopg", "elasticsearch"}
    for name, code in BLOCKS.items():
        compile(code, name, "exec")


TEXTS = ["绿茶用八十度的水冲泡。", "西湖在杭州。", "长城在北京。"]


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """Write three passages' vectors where the page reads them."""
    rows = "".join(f'{{"id": "r{number}", "text": "{text}"}}\n' for number, text in enumerate(TEXTS))
    (tmp_path / "in.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "parts").mkdir()
    assert main(["embed", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "parts" / "a.parquet")]) == 0
    monkeypatch.chdir(tmp_path)


def question():
    with zr.load_encoder("e5-small-zh") as encoder:
        return encoder.encode_queries(["泡茶的水温"])[0].tolist()


def run(code):
    names: dict[str, object] = {}
    exec(compile(code, "stores.md", "exec"), names)
    return names


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_milvus_is_filled_twice_without_doubling_and_finds(parts):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    code = BLOCKS["pymilvus"].replace("http://milvus:19530", "./milvus.db")
    names = run(code)
    exec(compile(code[code.index("for batch") :], "again", "exec"), names)
    client = names["client"]
    (found,) = client.search("passages", data=[question()], limit=5, output_fields=["text"])
    assert found[0]["entity"]["text"] == TEXTS[0]
    assert len(found) == 3
    assert np.all(np.diff([hit["distance"] for hit in found]) <= 0)
    client.close()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_postgresql_is_filled_twice_without_doubling_and_finds(parts):
    pgserver = pytest.importorskip("pgserver")
    psycopg = pytest.importorskip("psycopg")
    folder = tempfile.mkdtemp(prefix="pg")  # one that PostgreSQL's own user may enter
    with pgserver.get_server(folder, cleanup_mode="delete") as server:
        code = BLOCKS["psycopg"].replace("postgresql://localhost/search", server.get_uri())
        run(code)
        run(code)
        order = re.search(r"^# (SELECT .*)$", code, re.M)[1].replace("[0.1, ...]", str(question()))
        with psycopg.connect(server.get_uri()) as database:
            found = database.execute(order).fetchall()
    assert found[0][:2] == ("r0", TEXTS[0])
    assert len(found) == 3
    assert np.all(np.diff([score for _, _, score in found]) <= 0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_elasticsearchs_client_sends_a_vector_an_id(parts):
    pytest.importorskip("elasticsearch")
    kept = []
    with standing_in(kept) as url:
        run(BLOCKS["elasticsearch"].replace("http://elasticsearch:9200", url))
    (_, path, mapping), (_, bulk, lines) = [entry for entry in kept if entry[0] != "HEAD"]
    assert (path, bulk) == ("/passages", "/_bulk")
    fields = json.loads(mapping)["mappings"]["properties"]
    assert fields["embedding"] == {"type": "dense_vector", "dims": 384, "similarity": "cosine"}
    sent = [json.loads(line) for line in lines.splitlines() if line]
    assert [action["index"] for action in sent[::2]] == [{"_index": "passages", "_id": f"r{n}"} for n in range(3)]
    assert [row["text"] for row in sent[1::2]] == TEXTS
    assert [len(row["embedding"]) for row in sent[1::2]] == [384] * 3


@contextmanager
def standing_in(kept):
    """Serve what Elasticsearch would answer to a new index and to one bulk request, and keep what is sent."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self):
            body = self.rfile.read(int(self.headers.get("content-length", 0))).decode()
            kept.append((self.command, self.path, body))
            items = [{"index": {"_id": f"r{number}", "status": 201}} for number in range(3)]
            said = json.dumps({"errors": False, "items": items} if self.path == "/_bulk" else {}).encode()
            self.send_response(404 if self.command == "HEAD" else 200)
            for name, value in (("x-elastic-product", "Elasticsearch"), ("content-type", "application/json"),
                                ("content-length", str(len(said)))):  # fmt: skip
                self.send_header(name, value)
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(said)

        do_HEAD = do_PUT = do_POST = answer  # noqa: N815

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
