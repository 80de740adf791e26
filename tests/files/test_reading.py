"""The one reader: kinds of files, packed or not, encodings, broken values, and ranges that are what the whole is."""

import gzip
import io
import json
import sys

import pytest
from backports import zstd

import zh_retrieval as zr
from zh_retrieval.files.reading.encodings import check_encoding, looks_like
from zh_retrieval.files.reading.formats.columns import RowGroups
from zh_retrieval.files.reading.kinds import FORMATS
from zh_retrieval.files.reading.ranges import RangeReader, plan
from zh_retrieval.files.reading.records import Reader, text_form
from zh_retrieval.files.reading.rows import READERS, rows_of
from zh_retrieval.files.reading.sources import find

pa = pytest.importorskip("pyarrow")
pq = pytest.importorskip("pyarrow.parquet")

LINES = "".join(json.dumps({"id": f"d{n}", "text": f"绿茶{n}"}, ensure_ascii=False) + "\n" for n in range(5))
TABLE = '编号,text\r\n"1","多行\r\n文本"\r\n\r\n2,"逗,号"\r\n3,三'
CONTENT = {
    "a.jsonl": LINES, "a.ndjson": f"\n{LINES}\r\n\r\n", "a.json": LINES, "a.csv": TABLE, "a.txt": "一\n\n三\r四",
    "a.tsv": TABLE.replace(",", "\t"), "a.md": "# 茶\n\n绿茶。\n\n# 水\n\n热水。\n",
}  # fmt: skip
PACK = {
    "": bytes,
    ".gz": lambda content: gzip.compress(content[:9]) + gzip.compress(content[9:]),
    ".zst": zstd.compress,
}


def records(path, **options):
    form = text_form(**options)
    return list(Reader(form).read([str(path)]))


def in_ranges(path, size, **options):
    form = text_form(**options)
    how = {"encoding": form.encoding, "needs": form.needs}
    reader = RangeReader(**how)
    (source,) = find([str(path)])
    found = [row for part in plan(source, size, **how) for row in reader.read(part)]
    return list(Reader(form).records(found))


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("name", CONTENT)
@pytest.mark.parametrize("encoding", ["utf-8", "gb18030", "utf-16"])
def test_a_file_is_what_it_is_packed_or_not_in_any_encoding_whole_or_in_ranges(tmp_path, name, packed, encoding):
    plain, file = tmp_path / name, tmp_path / f"{name}{packed}"
    plain.write_bytes(CONTENT[name].encode())
    expected = [(record.text, record.id.replace(str(plain), "")) for record in records(plain)]
    file.write_bytes(PACK[packed](CONTENT[name].encode(encoding)))
    found = records(file, encoding=encoding)
    assert [(record.text, record.id.replace(str(file), "")) for record in found] == expected
    assert len(expected) > 1
    for size in (1, 2, 3, 100):
        assert in_ranges(file, size, encoding=encoding) == found


def test_columns_keep_their_types_and_a_value_that_is_no_text_is_one_bad_row(tmp_path):
    broken = pa.Array.from_buffers(
        pa.string(), 2, [None, pa.py_buffer(b"\0\0\0\0\3\0\0\0\5\0\0\0"), pa.py_buffer(b"\xd6\xd0\xceok")]
    )
    pq.write_table(pa.table({"id": ["a", "b"], "text": broken}), tmp_path / "utf8.parquet")
    dates = pa.array([2**62, 0], pa.timestamp("us"))
    pq.write_table(pa.table({"id": ["a", "b"], "day": dates, "text": ["x", "ok"]}), tmp_path / "date.parquet")
    for name, column in (("utf8", "text"), ("date", "day")):
        said: list[str] = []
        reader = Reader(text_form(), skip=True, say=said.append)
        assert [record.text for record in reader.read([str(tmp_path / f"{name}.parquet")])] == ["ok"]
        assert said[0].startswith(f"skipped row 1 of {tmp_path / name}.parquet: column '{column}' cannot be read")
        with pytest.raises(zr.InputError, match=r"row 1 of .*cannot be read"):
            records(tmp_path / f"{name}.parquet")


def test_a_range_behind_another_does_not_read_its_row_group_again(tmp_path):
    class Counting(io.FileIO):
        taken = 0

        def readinto(self, buffer):
            count = super().readinto(buffer)
            Counting.taken += count or 0
            return count

        def read(self, size=-1):
            content = super().read(size)
            Counting.taken += len(content)
            return content

    file = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"{number * 7919}茶" * 9 for number in range(20_000)]}), file)
    (source,) = find([str(file)])
    with Counting(file) as stream:
        groups = RowGroups(stream, source)
        for low in range(0, 20_000, 500):
            found = list(groups.read(0, low, 500))
            assert [fields["text"] for fields, _, _ in found[::499]] == [f"{n * 7919}茶" * 9 for n in (low, low + 499)]
        assert next(iter(groups.read(0, 3, 1)))[0] == {"text": f"{3 * 7919}茶" * 9}  # and back
    assert Counting.taken < 3 * file.stat().st_size


def test_arrow_files_and_streams_are_read(tmp_path):
    table = pa.table({"id": [1, 2, 3], "text": ["a", "b", "c"]})
    for name, writer in (("file", pa.ipc.new_file), ("stream", pa.ipc.new_stream)):
        with writer(tmp_path / f"{name}.arrow", table.schema) as out:
            out.write_table(table, max_chunksize=2)
        found = records(tmp_path / f"{name}.arrow")
        assert [(record.id, record.text) for record in found] == [("1", "a"), ("2", "b"), ("3", "c")]
        assert in_ranges(tmp_path / f"{name}.arrow", 2) == found


# --- what is wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("encoding", "guess"), [("gb18030", "gb18030"), ("gbk", "gb18030"), ("big5", "big5"), ("utf-16", "utf-16")]
)
def test_another_encoding_is_named_with_its_file_and_line(tmp_path, encoding, guess):
    text = "關於綠茶與紅茶的歷史" if encoding == "big5" else "关于绿茶与红茶的历史"
    file = tmp_path / "a.txt"
    file.write_bytes(f"{text}\n{text}\n".encode(encoding))
    for skip in (False, True):
        with pytest.raises(zr.InputError) as error:
            list(Reader(text_form(), skip=skip).read([str(file)]))
        assert f"line 1 of {file}: byte 0x" in str(error.value)
        assert f"looks like {guess.upper()}: use --encoding {guess}." in str(error.value)
    assert [record.text for record in records(file, encoding=check_encoding(encoding))] == [text, text]


def test_no_guess_is_made_of_noise():
    assert looks_like(b"caf\xe9") is None
    assert looks_like(bytes(range(128, 256))) is None


def test_utf8_that_is_called_something_else_is_refused_and_not_garbled(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_bytes(LINES.encode())
    for call in (records, lambda *given, **options: in_ranges(*given, 2, **options)):
        with pytest.raises(zr.InputError, match="is UTF-8, not GB18030"):
            call(file, encoding="gb18030")


@pytest.mark.parametrize("name", ["nosuch", "base64", "rot13", "idna", "", "\0", "x" * 10_000])
def test_what_is_no_encoding_is_refused(name):
    with pytest.raises(zr.ConfigError, match="no encoding of text") as error:
        check_encoding(name)
    assert len(str(error.value)) < 200


@pytest.mark.parametrize("packed", [".gz", ".zst"])
def test_broken_packed_files_are_named(tmp_path, packed):
    file = tmp_path / f"a.jsonl{packed}"
    whole = PACK[packed](LINES.encode() * 50)
    for content in (whole[:-5], b"not packed at all", whole[:12] + b"\xff\xff\xff" + whole[15:]):
        file.write_bytes(content)
        with pytest.raises(zr.InputError, match=str(file)):
            records(file)


def test_files_that_are_not_what_their_names_say_are_named(tmp_path):
    for name, said in (
        ("a.parquet", "no Parquet file"),
        ("a.arrow", "no arrow file"),
        ("a.pdf", "no file of a known kind"),
    ):
        (tmp_path / name).write_bytes(b"hello")
        with pytest.raises(zr.InputError, match=said):
            records(tmp_path / name)
    (tmp_path / "list.json").write_text('[{"text": "a"},\n{"text": "b"}]')
    with pytest.raises(zr.InputError, match="Write one object a line"):
        records(tmp_path / "list.json")


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_a_column_that_is_not_there_is_no_bad_row(tmp_path, name):
    names = [f"{number}" * 100 for number in range(2000)]
    if name == "a.csv":
        (tmp_path / name).write_text(",".join(names) + "\n" + ",".join("x" for _ in names))
    else:
        pq.write_table(pa.table({column: ["x"] for column in names}), tmp_path / name)
    for options in ({}, {"text_field": names[0], "id_field": "chunk_id"}):
        reader = Reader(text_form(**options), skip=True, say=lambda _: None)
        with pytest.raises(zr.InputError, match=r"has no column '(text|chunk_id)', only") as error:
            list(reader.read([str(tmp_path / name)]))
        assert len(str(error.value)) < 800


def test_bad_rows_are_shown_up_to_a_number_and_counted_all(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "a"}\n' + "{\n" * 1000)
    said: list[str] = []
    reader = Reader(text_form(), skip=True, say=said.append)
    assert len(list(reader.read([str(tmp_path / "a.jsonl")]))) == 1
    assert (len(said), reader.skipped) == (21, 1000)


# --- which files ---------------------------------------------------------------------------------------------------


def names(tmp_path, *inputs, **options):
    return [
        source.name.removeprefix(f"{tmp_path}/")
        for source in find([str(tmp_path / name) for name in inputs], **options)
    ]


def test_folders_and_patterns_mean_files_of_known_kinds_once(tmp_path):
    for name in ("a.jsonl", "b.csv", "b/c.jsonl.gz", "b/_d.jsonl", ".e/f.jsonl", "g.pdf", "[x].txt", "out/p.parquet"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("x")
    (tmp_path / "b" / "loop").symlink_to(tmp_path, target_is_directory=True)
    said: list[str] = []
    assert names(tmp_path, "", without=[str(tmp_path / "out")], say=said.append) == [
        "[x].txt",
        "a.jsonl",
        "b.csv",
        "b/c.jsonl.gz",
    ]
    assert said == [f"{tmp_path}: 1 files are of no known kind and left out, such as {tmp_path}/g.pdf"]
    assert names(tmp_path, "[!b]*.*") == ["[x].txt", "a.jsonl"]
    assert names(tmp_path, "**/*.jsonl*", "a.jsonl") == ["a.jsonl", "b/c.jsonl.gz"]
    assert names(tmp_path, "[x].txt") == ["[x].txt"]
    for nothing in ("nowhere", "*.tsv", "g.pdf"):
        with pytest.raises(zr.InputError, match="Give "):
            names(tmp_path, "a.jsonl", nothing)


def test_uris_are_read_by_fsspec_and_paths_need_none(tmp_path, monkeypatch):
    memory = pytest.importorskip("fsspec").filesystem("memory")
    memory.pipe("/reading/in/a.jsonl.gz", gzip.compress(LINES.encode()))
    memory.pipe("/reading/in/_b.jsonl", LINES.encode())
    for uri in ("memory://reading/in", "memory://reading/in/*.gz", "memory://reading/in/a.jsonl.gz"):
        (source,) = find([uri])
        assert source.name == "memory://reading/in/a.jsonl.gz"
        source.check()
        assert len(list(rows_of(source))) == 5
    with pytest.raises(zr.ConfigError, match="cannot be opened"):
        find(["nosuch://a/b"])
    (tmp_path / "a.jsonl").write_text(LINES, encoding="utf-8")
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert len(records(tmp_path / "a.jsonl")) == 5
    with pytest.raises(zr.ConfigError, match="pip install fsspec"):
        find(["memory://reading/in"])


def test_the_query_of_a_uri_stays_with_its_files(tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.jsonl").write_text(LINES, encoding="utf-8")
    uri = f"file://{tmp_path}/in"
    assert [source.name for source in find([uri])] == [f"{uri}/a.jsonl"]


def test_a_file_that_changed_is_not_read(tmp_path):
    file = tmp_path / "a.jsonl"
    file.write_text(LINES, encoding="utf-8")
    (source,) = find([str(file)])
    (part,) = plan(source, 100)
    file.write_text(LINES + LINES, encoding="utf-8")
    with pytest.raises(zr.InputError, match="changed while the job ran"):
        RangeReader().read(part)


def test_every_format_that_a_name_says_has_a_reader():
    assert READERS.keys() == set(FORMATS.values())
