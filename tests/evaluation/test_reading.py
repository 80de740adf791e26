"""Every form of dataset that users have, and every fault of files, read and named."""

import csv
import gzip
import io
import json

import pytest

import zh_retrieval as zr
from zh_retrieval.evaluation.reading.read import read_dataset

QUERIES = {"q1": "绿茶用多少度的水？", "q2": "红茶呢？"}
CORPUS = {"d1": ("绿茶", "八十度左右。"), "d2": ("红茶", "九十五度以上。"), "d3": ("", "普洱茶。")}
QRELS = {"q1": {"d1": 2, "d2": 0}, "q2": {"d2": 1}}


def lines(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def write(folder, name, text, encoding="utf-8"):
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(text.encode(encoding))
    return file


def corpus_rows(key="_id"):
    return [{key: name, "title": title, "text": text} for name, (title, text) in CORPUS.items()]


def query_rows(key="_id"):
    return [{key: name, "text": text} for name, text in QUERIES.items()]


def qrels_lines(header=True, separator="\t"):
    rows = [["query-id", "corpus-id", "score"]] if header else []
    rows += [[query, name, str(grade)] for query, grades in QRELS.items() for name, grade in grades.items()]
    return "".join(separator.join(row) + "\n" for row in rows)


def beir(folder, key="_id", qrels="qrels/test.tsv", text=None, encoding="utf-8"):
    write(folder, "corpus.jsonl", lines(corpus_rows(key)), encoding)
    write(folder, "queries.jsonl", lines(query_rows(key)), encoding)
    write(folder, qrels, text or qrels_lines(), encoding)
    return folder


def check(dataset):
    assert dict(dataset.queries) == QUERIES
    assert {name: (passage.title, passage.text) for name, passage in dataset.corpus.items()} == CORPUS
    assert dataset.qrels == QRELS
    assert dataset.faults == ()


@pytest.mark.parametrize("key", ["_id", "id"])
@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("qrels", ["qrels/test.tsv", "qrels.tsv", "qrels.dev.tsv"])
def test_beir_folders(tmp_path, key, header, qrels):
    check(read_dataset(beir(tmp_path, key, qrels, qrels_lines(header))))


def test_a_file_without_header_loses_no_judgement(tmp_path):
    assert len(read_dataset(beir(tmp_path, text=qrels_lines(header=False))).qrels["q1"]) == 2


def test_windows_line_ends_and_byte_order_marks(tmp_path):
    folder = beir(tmp_path, text=qrels_lines(header=False), encoding="utf-8-sig")
    for name in ("corpus.jsonl", "queries.jsonl", "qrels/test.tsv"):
        file = folder / name
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    check(read_dataset(folder))


def test_trec_qrels_and_compressed_files(tmp_path):
    rows = "".join(f"{q} 0 {name} {grade}\n" for q, grades in QRELS.items() for name, grade in grades.items())
    folder = beir(tmp_path, qrels="qrels.txt", text=rows)
    (folder / "corpus.jsonl.gz").write_bytes(gzip.compress((folder / "corpus.jsonl").read_bytes()))
    (folder / "corpus.jsonl").unlink()
    check(read_dataset(folder))


def test_a_quote_swallows_no_line(tmp_path):
    text = 'query-id\tcorpus-id\tscore\n"q1"\td1\t2.0\nq1\t"d2\t1\nq2\td2\t1\n'
    dataset = read_dataset(beir(tmp_path, text=text))
    assert dataset.qrels == {"q1": {"d1": 2, '"d2': 1}, "q2": {"d2": 1}}


def test_one_split_of_many(tmp_path):
    folder = beir(tmp_path)
    write(folder, "qrels/dev.tsv", "query-id\tcorpus-id\tscore\nq1\td3\t1\n")
    assert read_dataset(folder).split == "test"
    assert read_dataset(folder, split="dev").qrels == {"q1": {"d3": 1}}
    assert read_dataset(folder, split="all").qrels == {"q1": {"d1": 2, "d2": 0, "d3": 1}, "q2": {"d2": 1}}
    with pytest.raises(zr.ConfigError, match=r"no split 'tset'.*dev, test"):
        read_dataset(folder, split="tset")


def test_question_passage_pairs(tmp_path):
    rows = [
        {"question": "甲？", "passage": "答甲"},
        {"question": "乙？", "passage": "答乙"},
        {"question": "甲？", "passage": "又答甲"},
        {"question": "丙？", "passage": "答乙"},
    ]
    dataset = read_dataset(write(tmp_path, "pairs.jsonl", lines(rows)))
    assert dataset.queries == {"q1": "甲？", "q2": "乙？", "q3": "丙？"}
    assert [passage.text for passage in dataset.corpus.values()] == ["答甲", "答乙", "又答甲"]
    assert dataset.qrels == {"q1": {"d1": 1, "d3": 1}, "q2": {"d2": 1}, "q3": {"d2": 1}}


def test_flag_embeddings_training_rows(tmp_path):
    row = {"query": "甲？", "pos": ["答甲"], "neg": ["不对", {"title": "题", "text": "也不对"}]}
    dataset = read_dataset(write(tmp_path, "a/train.jsonl", lines([row])).parent)
    assert dataset.name == "a"
    assert dataset.qrels == {"q1": {"d1": 1, "d2": 0, "d3": 0}}
    assert dataset.corpus["d3"].joined() == "题\n也不对"


def test_llama_index_datasets(tmp_path):
    """The object that llama_index.finetuning's EmbeddingQAFinetuneDataset.save_json writes."""
    texts = {name: text for name, (_, text) in CORPUS.items()}
    content = {"queries": QUERIES, "corpus": texts, "relevant_docs": {"q1": ["d1"], "q2": ["d2"]}, "mode": "text"}
    dataset = read_dataset(write(tmp_path, "dataset.json", json.dumps(content, indent=4)))
    assert dataset.queries == QUERIES
    assert {name: passage.text for name, passage in dataset.corpus.items()} == texts
    assert dataset.qrels == {"q1": {"d1": 1}, "q2": {"d2": 1}}


def parquet(folder, name, rows):
    import pyarrow as pa
    import pyarrow.parquet as pq

    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.Table.from_pylist(rows), folder / name)


@pytest.mark.parametrize("judgements", ["default", "qrels"])
def test_mteb_repositories(tmp_path, judgements):
    """mteb writes a folder for each configuration, with a Parquet file for each split."""
    rows = [
        {"query-id": query, "corpus-id": name, "score": grade}
        for query, grades in QRELS.items() for name, grade in grades.items()
    ]  # fmt: skip
    folder = tmp_path / "datasets--mteb--Tea" / "snapshots" / "abc"
    parquet(folder, "corpus/dev-00000-of-00001.parquet", corpus_rows("id"))
    parquet(folder, "queries/dev-00000-of-00001.parquet", query_rows("id"))
    parquet(folder, f"{judgements}/dev-00000-of-00001.parquet", rows)
    dataset = read_dataset(tmp_path / "datasets--mteb--Tea")
    check(dataset)
    assert dataset.split == "dev"


def test_c_mteb_repositories_with_their_qrels_beside(tmp_path):
    rows = [{"qid": query, "pid": name, "score": grade} for query, g in QRELS.items() for name, grade in g.items()]
    parquet(tmp_path, "Tea/data/corpus-00000-of-00001.parquet", corpus_rows("id"))
    parquet(tmp_path, "Tea/data/queries-00000-of-00001.parquet", query_rows("id"))
    parquet(tmp_path, "Tea-qrels/data/dev-00000-of-00001.parquet", rows)
    check(read_dataset(tmp_path / "Tea"))


def test_arrow_folders_that_datasets_saves(tmp_path):
    import pyarrow as pa

    rows = [{"query-id": q, "corpus-id": n, "score": grade} for q, g in QRELS.items() for n, grade in g.items()]
    for name, content in (("corpus", corpus_rows("id")), ("queries", query_rows("id")), ("qrels", rows)):
        table = pa.Table.from_pylist(content)
        (tmp_path / name).mkdir()
        with (
            pa.OSFile(str(tmp_path / name / "data-00000-of-00001.arrow"), "wb") as out,
            pa.ipc.new_stream(out, table.schema) as writer,
        ):
            writer.write_table(table)
    check(read_dataset(tmp_path))


def faults(dataset):
    return {fault.kind: (fault.count, fault.examples) for fault in dataset.faults}


def test_faults_of_files_are_counted_and_named(tmp_path):
    folder = beir(tmp_path, qrels="qrels.tsv", text=(
        "query-id\tcorpus-id\tscore\nq1\td1\t1\nq1\td1\t1\nq1\td1\t2\nq2\td2\t0.5\nq2\td3\t-1\nq2\td2\n"
    ))  # fmt: skip
    broken = '{"_id": "d4", "text": "断\n[1]\n{"text": "无号"}\n{"_id": "d5"}\n{"_id": "d1", "text": "又一个"}\n'
    broken += '{"_id": "d6", "text": "\\ud800"}\n'
    with (folder / "corpus.jsonl").open("ab") as out:
        out.write(broken.encode() + b'{"_id": "d7", "text": "\xff"}\n')
    dataset = read_dataset(folder)
    assert faults(dataset) == {
        "unreadable-line": (
            5,
            (
                "line 4 of corpus.jsonl",
                "line 5 of corpus.jsonl",
                "line 9 of corpus.jsonl",
                "line 10 of corpus.jsonl",
                "line 7 of qrels.tsv",
            ),
        ),
        "no-id": (1, ("line 6 of corpus.jsonl",)),
        "no-text": (1, ("line 7 of corpus.jsonl",)),
        "duplicate-id": (1, ("line 8 of corpus.jsonl (d1)",)),
        "duplicate-judgement": (1, ("line 3 of qrels.tsv",)),
        "conflicting-judgement": (1, ("line 4 of qrels.tsv",)),
        "bad-grade": (1, ("line 5 of qrels.tsv (0.5)",)),
        "negative-grade": (1, ("line 6 of qrels.tsv (-1)",)),
    }
    assert dataset.qrels == {"q1": {"d1": 2}, "q2": {"d3": 0}}
    assert dataset.corpus["d1"].text == "八十度左右。"


def test_what_is_no_dataset_is_refused_with_what_would_be(tmp_path):
    with pytest.raises(zr.InputError, match="neither a folder nor a file"):
        read_dataset(tmp_path / "nowhere")
    write(tmp_path, "corpus.jsonl", lines(corpus_rows()))
    with pytest.raises(zr.InputError, match=r"1 of corpus, 0 of queries, 0 of qrels.*corpus\.jsonl, queries\.jsonl"):
        read_dataset(tmp_path)
    with pytest.raises(zr.InputError, match=r"expected the columns question and passage.*found '_id', 'title', 'text'"):
        read_dataset(tmp_path / "corpus.jsonl")
    with pytest.raises(zr.InputError, match="as LlamaIndex writes them"):
        read_dataset(write(tmp_path, "x.json", "[]"))
    (tmp_path / "corpus.jsonl").unlink()
    for subset in ("zh", "en"):
        write(tmp_path, f"{subset}-corpus/test.jsonl", lines(corpus_rows()))
    with pytest.raises(zr.InputError, match="several corpora: en-corpus, zh-corpus"):
        read_dataset(tmp_path)


PAIRS = [("绿茶用多少度的水？", "八十度左右。"), ("红茶呢？", "九十五度以上，\n先温杯。"), ("普洱呢？", '他说"沸水"。')]


def table(header, delimiter=",", rows=PAIRS):
    out = io.StringIO()
    csv.writer(out, delimiter=delimiter).writerows([header, *rows])
    return out.getvalue()


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gbk", "gb18030", "utf-16"])
@pytest.mark.parametrize(("name", "delimiter"), [("qa.csv", ","), ("qa.tsv", "\t")])
@pytest.mark.parametrize("header", [("问题", "答案"), ("question", "passage"), (" Question", "ANSWER ")])
def test_tables_of_questions_and_answers(tmp_path, encoding, name, delimiter, header):
    file = write(tmp_path, name, table(header, delimiter), encoding)
    dataset = read_dataset(file, encoding="utf-8" if encoding == "utf-8-sig" else encoding)
    assert [(q, dataset.corpus[d].text) for (_, q), d in zip(dataset.queries.items(), dataset.corpus, strict=True)] == [
        (question, answer.replace("\n", "\r\n" if "\r\n" in dataset.corpus["d2"].text else "\n"))
        for question, answer in PAIRS
    ]
    assert dataset.qrels == {f"q{n}": {f"d{n}": 1} for n in (1, 2, 3)}
    assert dataset.faults == ()
    assert dataset.name == "qa"
    assert read_dataset(tmp_path, encoding="utf-8" if encoding == "utf-8-sig" else encoding).queries == dataset.queries


@pytest.mark.parametrize("header", [("问题", "答案"), ("question", "answer")])
def test_a_table_that_excel_wrote_is_refused_with_the_encoding_it_is_in(tmp_path, header):
    file = write(tmp_path, "qa.csv", table(header), "gbk")
    with pytest.raises(zr.InputError, match="GB18030: use --encoding gb18030") as raised:
        read_dataset(file)
    assert "skip" not in str(raised.value)
    with pytest.raises(zr.InputError, match="is UTF-8, not GB18030"):
        read_dataset(write(tmp_path, "utf8.csv", table(header)), encoding="gbk")
    with pytest.raises(zr.ConfigError, match="is no encoding"):
        read_dataset(file, encoding="klingon")


def test_a_dataset_in_another_encoding_is_not_blamed_on_its_ids(tmp_path):
    folder = beir(tmp_path, encoding="gb18030")
    with pytest.raises(zr.InputError, match=r"corpus\.jsonl cannot be read.*use --encoding gb18030"):
        read_dataset(folder)
    check(read_dataset(folder, encoding="gb18030"))


def test_rows_of_a_table_that_are_no_pair_are_named(tmp_path):
    text = "question,answer\n甲？,答甲\n,\n乙？,\n丙？,答丙,多\n,答丁\n戊？,答戊\n己？,答己\n庚？,答庚\n"
    dataset = read_dataset(write(tmp_path, "qa.csv", text))
    assert list(dataset.queries.values()) == ["甲？", "戊？", "己？", "庚？"]
    assert faults(dataset) == {
        "no-pair": (2, ("line 4 of qa.csv", "line 6 of qa.csv")), "unreadable-line": (1, ("line 5 of qa.csv",)),
    }  # fmt: skip


def test_a_spreadsheet_says_what_to_save_it_as(tmp_path):
    with pytest.raises(zr.InputError, match=r"Save it as CSV.*gb18030"):
        read_dataset(write(tmp_path, "qa.xlsx", "PK"))


def test_a_file_that_is_mostly_broken_is_refused_with_the_first_error(tmp_path):
    folder = beir(tmp_path)
    write(folder, "queries.jsonl", lines(query_rows()) + '{"_id": "q3", "text"\n' * 3)
    with pytest.raises(zr.InputError, match=r"3 of 5 lines of .*queries\.jsonl cannot be read\. The first: line 3"):
        read_dataset(folder)


@pytest.mark.parametrize("header", [True, False])
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_tab_separated_corpora(tmp_path, header, packed):
    """With a header, or without one as MS MARCO has them, where a quote means nothing."""
    corpus = [(name, title, text) for name, (title, text) in CORPUS.items()] + [("d4", "引号", '"半个引号')] * (
        not header
    )
    queries = list(QUERIES.items())
    for name, columns, rows in (("collection", ("id", "title", "text"), corpus), ("queries", ("id", "text"), queries)):
        text = "".join("\t".join(row) + "\n" for row in ([columns] if header else []) + rows)
        content = text.encode()
        (tmp_path / f"{name}.tsv{packed}").write_bytes(gzip.compress(content) if packed else content)
    write(tmp_path, "qrels.tsv", qrels_lines())
    dataset = read_dataset(tmp_path)
    assert dataset.queries == QUERIES
    assert {name: (p.title, p.text) for name, p in dataset.corpus.items()} == {
        name: (title, text) for name, title, text in corpus
    }
    assert dataset.faults == ()


def test_the_folder_in_which_one_stands(tmp_path, monkeypatch):
    check(read_dataset(beir(tmp_path / "tea")))
    monkeypatch.chdir(tmp_path / "tea")
    for said in (".", "../tea", "./"):
        check(read_dataset(said))
        assert read_dataset(said).name == "tea"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    with pytest.raises(zr.InputError, match="is no dataset"):
        read_dataset(".")
    (tmp_path / "empty" / "snapshots").mkdir()
    with pytest.raises(zr.InputError, match="is no dataset"):
        read_dataset(".")
