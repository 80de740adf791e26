"""BM25 against bm25s and Lucene's formula; texts that come and go; files."""

import json
import math
import pickle
import threading
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import zh_retrieval as zr
from tests.contract.demo_corpus import passages
from zh_retrieval.sparse import segment

TEXTS = [*(text for _, text, _ in passages(15)), "绿茶", "绿茶绿茶绿茶", "", "green tea 80 ℃", "绿茶"]
QUERIES = ["绿茶用多少度的水", "green tea", "绿茶绿茶", "没有的词xyzzy", "", "的", "80"]


def lucene(texts, query, k1=1.2, b=0.75):
    """Return the scores above 0 by place, by Lucene's formula in float64."""
    counted = [Counter(zr.terms(text)) for text in texts]
    lengths = [sum(counts.values()) for counts in counted]
    average = sum(lengths) / len(lengths)
    scores = {}
    for place, counts in enumerate(counted):
        for term in zr.terms(query):
            holding = sum(term in other for other in counted)
            if counts[term]:
                idf = math.log(1 + (len(texts) - holding + 0.5) / (holding + 0.5))
                norm = k1 * (1 - b + b * lengths[place] / average)
                scores[place] = scores.get(place, 0.0) + idf * counts[term] / (counts[term] + norm)
    return scores


def assert_is(index, texts, ids=None, **parameters):
    """Check that an index answers as one of `texts` alone, whose ids are given, or the places."""
    ids = list(range(len(texts))) if ids is None else ids
    assert len(index) == len(texts)
    for query in QUERIES:
        expected = lucene(texts, query, **parameters) if texts else {}
        found = index.search(query, len(texts) + 1)
        assert [id for id, _ in found] == [
            ids[place] for place in sorted(expected, key=lambda place: (-round(expected[place], 9), place))
        ]
        by_id = {ids[place]: score for place, score in expected.items()}
        assert [score for _, score in found] == pytest.approx([by_id[id] for id, _ in found], abs=1e-9)
        assert index.search(query, 2) == found[:2]


@pytest.mark.parametrize("parameters", [{}, {"k1": 0.0, "b": 0.0}, {"k1": 2.0, "b": 1.0}])
def test_scores_are_lucenes_and_ties_in_order(parameters):
    assert_is(zr.BM25Index(TEXTS, **parameters), TEXTS, **parameters)


def test_scores_are_those_of_bm25s():
    bm25s = pytest.importorskip("bm25s")
    vocabulary: dict[str, int] = {}
    numbers = [[vocabulary.setdefault(term, len(vocabulary)) for term in zr.terms(text)] for text in TEXTS]
    peer = bm25s.BM25(method="lucene", k1=1.2, b=0.75)
    peer.index((numbers, vocabulary), show_progress=False, create_empty_token=False)
    index = zr.BM25Index(TEXTS)
    for query in QUERIES:
        known = [vocabulary[term] for term in zr.terms(query) if term in vocabulary]
        expected = peer.get_scores_from_ids(known) if known else np.zeros(len(TEXTS))
        found = np.zeros(len(TEXTS))
        for place, score in index.search(query, len(TEXTS)):
            found[place] = score
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_texts_come_and_go(monkeypatch):
    monkeypatch.setattr(segment, "MOST_TEXTS", 4)  # several segments, which are merged
    index = zr.BM25Index(iter(TEXTS[:3]), ids=["a", "b", 3])
    for number, text in enumerate(TEXTS[3:], 3):
        index.add([text], [f"n{number}"])
    ids = ["a", "b", 3, *(f"n{number}" for number in range(3, len(TEXTS)))]
    assert_is(index, TEXTS, ids)
    assert index.delete(["b", 3, "not there", 99]) == 2
    assert_is(index, [TEXTS[0], *TEXTS[3:]], ["a", *ids[3:]])
    index.add(["绿茶 green"], ["a"])  # takes the place of the first, and is the last
    assert_is(index, [*TEXTS[3:], "绿茶 green"], [*ids[3:], "a"])
    assert index.delete(ids) == len(TEXTS) - 2
    assert_is(index, [])
    index.add(["绿茶"], ["b"])
    assert_is(index, ["绿茶"], ["b"])


def test_texts_are_known_by_their_numbers_where_no_ids_are_given():
    index = zr.BM25Index(TEXTS[:2])
    index.add(TEXTS[2:])
    assert index.delete([0, 5, 10_000, "a"]) == 2
    ids = [number for number in range(len(TEXTS)) if number not in (0, 5)]
    assert_is(index, [TEXTS[number] for number in ids], ids)
    index.add(["绿茶"])
    assert index.search("绿茶", 99)[-1][0] != 0
    assert len(TEXTS) in [id for id, _ in index.search("绿茶", 99)]


CHANGES = st.lists(
    st.tuples(st.booleans(), st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True)), max_size=12
)
WORDS = ["绿茶", "绿茶水", "水温", "tea", "绿茶 tea tea", "", "温水", "茶", "水水水水水"]


@settings(max_examples=60, deadline=None)
@given(CHANGES)
def test_any_changes_leave_what_a_new_index_has(changes):
    index, there = zr.BM25Index(ids=()), {}
    for number, (adds, ids) in enumerate(changes):
        if adds:
            texts = [WORDS[(id + number) % len(WORDS)] for id in ids]
            index.add(texts, ids)
            for id, text in zip(ids, texts, strict=True):
                there.pop(id, None)
                there[id] = text
        else:
            assert index.delete(ids) == sum(there.pop(id, None) is not None for id in ids)
    anew = zr.BM25Index(there.values(), ids=there)
    for query in ("绿茶水温", "tea", "水"):
        assert index.search(query, 10) == anew.search(query, 10)


@pytest.mark.parametrize("ids", [None, [f"文档{number}" for number in range(len(TEXTS))]])
def test_a_saved_index_gives_the_same_and_can_be_changed(tmp_path, ids):
    index = zr.BM25Index(TEXTS, ids=ids, k1=0.9, b=0.4)
    gone = [ids[1]] if ids else [1]
    index.delete(gone)
    index.save(tmp_path / "index")
    loaded = zr.BM25Index.load(tmp_path / "index")
    assert (loaded.k1, loaded.b, len(loaded)) == (0.9, 0.4, len(index))
    for query in QUERIES:
        assert loaded.search(query, 50) == index.search(query, 50)
    for each in (index, loaded):
        each.add(["绿茶"], ["新"] if ids else None)
        each.delete([ids[0]] if ids else [0])
    assert loaded.search("绿茶", 50) == index.search("绿茶", 50)
    loaded.save(tmp_path / "index")  # over the file that it is mapped from
    assert zr.BM25Index.load(tmp_path / "index").search("绿茶", 50) == index.search("绿茶", 50)
    assert [file.name for file in tmp_path.iterdir()] == ["index"]


def test_an_empty_index_finds_nothing_and_can_be_saved(tmp_path):
    for index in (zr.BM25Index(), zr.BM25Index(["", "。"])):
        index.save(tmp_path / "index")
        assert zr.BM25Index.load(tmp_path / "index").search("绿茶") == index.search("绿茶") == []


def spoiled(data, what):
    """Return a file's bytes with one thing changed."""
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    if what == "cut":
        return data[:-5]
    if what == "format":
        header["__metadata__"]["format"] = "other"
    elif what == "k1":
        header["__metadata__"]["k1"] = "nan"
    elif what == "starts":
        low, _ = header["0.starts"]["data_offsets"]
        return data[: 8 + size + low] + b"\xff" * 4 + data[8 + size + low + 4 :]
    elif what == "missing":
        del header["0.texts"]
    elif what == "offsets":
        header["0.keys"]["data_offsets"][0] -= 8
    changed = json.dumps(header).encode()
    return len(changed).to_bytes(8, "little") + changed + data[8 + size :]


@pytest.mark.parametrize("what", ["cut", "format", "k1", "starts", "missing", "offsets"])
def test_a_damaged_file_is_refused(tmp_path, what):
    zr.BM25Index(TEXTS).save(tmp_path / "index")
    (tmp_path / "index").write_bytes(spoiled((tmp_path / "index").read_bytes(), what))
    with pytest.raises(zr.CheckpointError, match="is no BM25 index, or is damaged"):
        zr.BM25Index.load(tmp_path / "index")


def test_other_files_are_refused(tmp_path):
    (tmp_path / "text").write_bytes("文本".encode() * 100)
    with pytest.raises(zr.CheckpointError, match="no header"):
        zr.BM25Index.load(tmp_path / "text")
    with pytest.raises(FileNotFoundError):
        zr.BM25Index.load(tmp_path / "nothing")
    with pytest.raises(zr.ConfigError, match="is not a folder"):
        zr.BM25Index(TEXTS).save(tmp_path / "no" / "index")


def test_an_index_travels():
    index = zr.BM25Index(TEXTS, ids=list(map(str, range(len(TEXTS)))))
    assert pickle.loads(pickle.dumps(index)).search("绿茶") == index.search("绿茶")


def test_a_search_beside_changes_sees_one_state():
    index, wrong = zr.BM25Index(["绿茶"] * 50, ids=range(50)), []
    ends = threading.Event()

    def search():
        while not ends.is_set():
            found = index.search("绿茶", 1000)
            if len(found) not in (50, 51) or len({score for _, score in found}) != 1:
                wrong.append(found)

    threads = [threading.Thread(target=search) for _ in range(2)]
    for thread in threads:
        thread.start()
    for number in range(100, 200):
        index.add(["绿茶"], [number])
        index.delete([number])
    ends.set()
    for thread in threads:
        thread.join()
    assert wrong == []


@pytest.mark.parametrize(
    ("do", "error", "said"),
    [
        (lambda: zr.BM25Index("绿茶"), zr.InputError, "Wrap one text in a list"),
        (lambda: zr.BM25Index(["绿茶", 3]), zr.InputError, r"texts\[1\] is int"),
        (lambda: zr.BM25Index(["绿茶", "\ud800"]), zr.InputError, r"texts\[1\] holds a lone surrogate"),
        (lambda: zr.BM25Index(["绿茶"], ids=["a", "b"]), zr.InputError, "2 ids for 1 texts"),
        (lambda: zr.BM25Index(["绿茶"] * 3, ids=["a", "b"]), zr.InputError, "2 ids for more texts"),
        (lambda: zr.BM25Index(["绿茶"] * 2, ids=["a", "a"]), zr.InputError, "'a' 2 times"),
        (lambda: zr.BM25Index(["绿茶"], ids=[1.5]), zr.InputError, r"ids\[0\] is float"),
        (lambda: zr.BM25Index(["绿茶"]).add(["茶"], ["a"]), zr.ConfigError, "leave ids out"),
        (lambda: zr.BM25Index(["绿茶"], ids=["a"]).add(["茶"]), zr.ConfigError, "give one for each text"),
        (lambda: zr.BM25Index(["绿茶"], ids=["a"]).delete("a"), zr.InputError, "Wrap one id"),
        (lambda: zr.BM25Index(k1=-1), zr.ConfigError, "k1=-1"),
        (lambda: zr.BM25Index(b=1.1), zr.ConfigError, "b=1.1"),
        (lambda: zr.BM25Index().search("茶", 0), zr.ConfigError, "k=0"),
        (lambda: zr.BM25Index().search(None), zr.InputError, "query is NoneType"),
    ],
)
def test_what_makes_no_sense_is_refused(do, error, said):
    with pytest.raises(error, match=said):
        do()


def test_a_refused_call_changes_nothing():
    index = zr.BM25Index(["绿茶"], ids=["a"])
    for texts, ids in ((["茶", 3], ["a", "b"]), (["茶"], ["a", "b"])):
        with pytest.raises(zr.InputError):
            index.add(texts, ids)
    assert_is(index, ["绿茶"], ["a"])
