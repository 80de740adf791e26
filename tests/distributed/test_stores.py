"""The page on stores: its lines fill a store that runs here, and all of them are Python."""

import re
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


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_milvus_is_filled_twice_without_doubling_and_finds(tmp_path, monkeypatch):
    pytest.importorskip("pymilvus")
    pytest.importorskip("milvus_lite")
    texts = ["绿茶用八十度的水冲泡。", "西湖在杭州。", "长城在北京。"]
    rows = "".join(f'{{"id": "r{number}", "text": "{text}"}}\n' for number, text in enumerate(texts))
    (tmp_path / "in.jsonl").write_text(rows, encoding="utf-8")
    (tmp_path / "parts").mkdir()
    assert main(["embed", str(tmp_path / "in.jsonl"), "-o", str(tmp_path / "parts" / "a.parquet")]) == 0
    monkeypatch.chdir(tmp_path)
    code = BLOCKS["pymilvus"].replace("http://milvus:19530", "./milvus.db")
    names: dict[str, object] = {}
    exec(compile(code, "stores.md", "exec"), names)
    loop = code[code.index("for batch") :]
    exec(compile(loop, "again", "exec"), names)
    client = names["client"]
    with zr.load_encoder("e5-small-zh") as encoder:
        query = encoder.encode_queries(["泡茶的水温"])[0]
    (found,) = client.search("passages", data=[query.tolist()], limit=5, output_fields=["text"])
    assert found[0]["entity"]["text"] == texts[0]
    assert len(found) == 3
    assert np.all(np.diff([hit["distance"] for hit in found]) <= 0)
    client.close()
