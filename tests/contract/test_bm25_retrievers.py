"""BM25 over documents and nodes: what is found, added, replaced, deleted, filtered, saved and read elsewhere."""

import copy
import json
import os
import pickle
import subprocess
import sys
from datetime import date

import pytest
from langchain_core.documents import Document
from llama_index.core.schema import Document as LlamaDocument
from llama_index.core.schema import ImageNode, IndexNode, NodeRelationship, TextNode

import langchain_zh_retrieval as lc
import llama_index_zh_retrieval as li
import zh_retrieval as zr
from tests.contract.demo_corpus import passages, questions
from tests.contract.hybrid_corpus import documents, lexical_side, nodes

TEXTS = ["绿茶用八十度的水冲泡。", "红茶用沸水冲泡。", "猫喜欢睡觉。", "GPT 模型在２０２４年"]


class LangChain:
    """BM25Retriever of LangChain, by the few calls that the tests share."""

    def __init__(self, texts=TEXTS, **fields):
        self.made = lc.BM25Retriever.from_texts(texts, ids=[f"id{n}" for n in range(len(texts))], **fields)

    def ask(self, question, **asked):
        found = self.made.invoke(question, **asked)
        return [(document.id, document.metadata["bm25_score"]) for document in found]

    async def aask(self, question):
        return [(document.id, document.metadata["bm25_score"]) for document in await self.made.ainvoke(question)]

    def add(self, name, text):
        self.made.add_documents([Document(page_content=text, id=name)])

    def delete(self, names):
        self.made.delete(names)


class LlamaIndex:
    """BM25Retriever of LlamaIndex."""

    def __init__(self, texts=TEXTS, **fields):
        if "k" in fields:
            fields["similarity_top_k"] = fields.pop("k")
        given = [TextNode(id_=f"id{n}", text=text) for n, text in enumerate(texts)]
        self.made = li.BM25Retriever.from_nodes(given, **fields)

    def ask(self, question):
        return [(scored.node.node_id, scored.score) for scored in self.made.retrieve(question)]

    async def aask(self, question):
        return [(scored.node.node_id, scored.score) for scored in await self.made.aretrieve(question)]

    def add(self, name, text):
        self.made.add_nodes([TextNode(id_=name, text=text)])

    def delete(self, names):
        self.made.delete_nodes(names)


KINDS = pytest.mark.parametrize("kind", [LangChain, LlamaIndex])


def names(found):
    return [name for name, _ in found]


@KINDS
async def test_what_shares_a_term_is_found_best_first(kind):
    made = kind()
    assert names(made.ask("绿茶怎么冲泡？")) == ["id0", "id1"]
    assert names(made.ask("ｇｐｔ")) == names(made.ask("2024")) == ["id3"]
    assert await made.aask("绿茶怎么冲泡？") == made.ask("绿茶怎么冲泡？")
    assert names(kind(k=1).ask("绿茶怎么冲泡？")) == ["id0"]


@KINDS
@pytest.mark.parametrize("question", ["", " \n", "。？！", "火车"])
def test_a_question_without_a_known_term_finds_nothing(kind, question):
    assert kind().ask(question) == kind([]).ask(question) == []


@KINDS
def test_ties_keep_the_order(kind):
    assert names(kind(["茶叶", "茶叶", "猫", "茶叶"]).ask("茶叶")) == ["id0", "id1", "id3"]


@KINDS
def test_what_is_added_is_found_and_what_is_deleted_is_not(kind):
    made = kind()
    made.add("new", "滑雪板要打蜡。")
    assert names(made.ask("滑雪板")) == ["new"]
    made.add("id0", "乌龙茶用九十五度的水冲泡。")  # takes the place of what had the id
    assert names(made.ask("绿茶")) == []
    assert names(made.ask("冲泡")) == ["id0", "id1"] or names(made.ask("冲泡")) == ["id1", "id0"]
    made.delete(["new", "id0", "never there"])
    assert names(made.ask("滑雪板")) == []
    assert names(made.ask("冲泡")) == ["id1"]
    fresh = kind([TEXTS[1], TEXTS[2], TEXTS[3]])
    assert [score for _, score in made.ask("冲泡")] == [score for _, score in fresh.ask("冲泡")]


@KINDS
def test_bad_texts_are_refused_and_nothing_is_added(kind):
    made = kind()
    with pytest.raises(zr.InputError, match="lone surrogate"):
        made.add("bad", "茶\ud800")
    with pytest.raises(zr.InputError, match="lone surrogate"):
        made.ask("茶\ud800")
    assert names(made.ask("冲泡")) == ["id1", "id0"]


@KINDS
@pytest.mark.parametrize("bad", [{"k": 0}, {"k1": -1.0}, {"b": 1.5}, {"b": "x"}])
def test_numbers_that_make_no_sense_are_refused(kind, bad):
    with pytest.raises(zr.ConfigError, match=next(iter(bad))):
        kind(**bad)


@KINDS
def test_the_parameters_count(kind):
    texts = ["茶叶茶叶茶叶", "茶叶和水和火和土"]
    flat = dict(kind(texts, k1=0.0).ask("茶叶"))
    assert flat["id0"] == flat["id1"] > 0
    assert dict(kind(texts).ask("茶叶"))["id0"] > dict(kind(texts).ask("茶叶"))["id1"]


@KINDS
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda made: pickle.loads(pickle.dumps(made))])
def test_a_copy_answers_alike_and_changes_alone(kind, way):
    made = kind()
    before = made.ask("绿茶怎么冲泡？")
    other = copy.copy(made)
    other.made = way(made.made)
    assert other.ask("绿茶怎么冲泡？") == before
    other.delete(["id0"])
    assert made.ask("绿茶怎么冲泡？") == before
    assert names(other.ask("绿茶怎么冲泡？")) == ["id1"]


def test_both_frameworks_give_the_ranking_and_scores_of_the_core():
    langchain, llama = lc.BM25Retriever.from_documents(documents()), li.BM25Retriever.from_nodes(nodes())
    for question in questions():
        expected = lexical_side(question, 10)
        found = langchain.invoke(question)
        assert [(d.metadata["id"], d.metadata["bm25_score"]) for d in found] == expected
        assert [(scored.node.node_id, scored.score) for scored in llama.retrieve(question)] == expected


def test_langchain_filters_before_it_cuts():
    made = lc.BM25Retriever.from_documents(documents())
    question = questions(4)[3]
    right = [name for name, _ in lexical_side(question, 40) if name in topic1()]
    assert len(right) >= 2
    assert {name for name, _ in lexical_side(question, 2)} - set(right)
    found = made.invoke(question, k=2, filter=lambda document: document.metadata["topic"] == "topic1")
    assert [document.metadata["id"] for document in found] == right[:2]


def topic1():
    return {name for name, _, topic in passages() if topic == "topic1"}


def test_langchain_takes_ids_metadata_and_refuses_the_rest():
    made = lc.BM25Retriever.from_texts(["茶叶", "猫"], [{"n": 1}, {"n": 2}])
    assert [document.metadata for document in made.documents] == [{"n": 1}, {"n": 2}]
    assert len({document.id for document in made.documents}) == 2
    with pytest.raises(zr.InputError, match="1 metadatas for 2 texts"):
        lc.BM25Retriever.from_texts(["茶叶", "猫"], [{}])
    with pytest.raises(zr.InputError, match="documents is str"):
        lc.BM25Retriever.from_documents("茶叶")
    with pytest.raises(zr.InputError, match=r"documents\[0\] is str"):
        made.add_documents(["茶叶"])
    with pytest.raises(zr.ConfigError, match="top_n"):
        lc.BM25Retriever.from_documents([], top_n=3)
    with pytest.raises(zr.ConfigError, match="k1"):
        made.k1 = 2.0
    assert repr(made) == "BM25Retriever()"


def test_llama_index_reads_what_an_embedding_would():
    node = TextNode(text="正文", metadata={"title": "绿茶", "file": "红茶"}, excluded_embed_metadata_keys=["file"])
    made = li.BM25Retriever([node])
    assert len(made.retrieve("绿茶")) == 1
    assert made.retrieve("红茶") == []


def test_llama_index_deletes_by_document():
    tea = LlamaDocument(text="绿茶用八十度的水冲泡。红茶要用沸水。", id_="tea").as_related_node_info()
    given = [TextNode(text=text, relationships={NodeRelationship.SOURCE: tea}) for text in TEXTS[:2]]
    made = li.BM25Retriever.from_nodes([*given, TextNode(text="猫喜欢睡觉。")])
    assert len(made.retrieve("冲泡")) == 2
    made.delete_ref_doc("tea")
    assert made.retrieve("冲泡") == []
    assert len(made.retrieve("睡觉")) == 1


def test_what_was_given_is_not_kept():
    document = Document(page_content="绿茶", metadata={"list": [1]})
    chain = lc.BM25Retriever([document])
    document.page_content = "红茶"
    document.metadata["list"].append(2)
    for found in (chain.invoke("绿茶"), chain.documents):
        assert (found[0].page_content, found[0].metadata["list"]) == ("绿茶", [1])
        found[0].metadata["list"].append(3)
    given = TextNode(text="绿茶", embedding=[1.0])
    made = li.BM25Retriever([given])
    given.set_content("红茶")
    assert made.retrieve("绿茶")[0].node.text == "绿茶"
    assert given.embedding == [1.0]
    made.nodes[0].set_content("猫")
    assert made.nodes[0].text == "绿茶"


PROGRAM = """
import json, sys
if sys.argv[1] == "langchain":
    from langchain_zh_retrieval import BM25Retriever
    made = BM25Retriever.load(sys.argv[2])
    print(json.dumps([[d.id, d.page_content, d.metadata] for d in made.invoke(sys.argv[3])]))
else:
    from llama_index_zh_retrieval import BM25Retriever
    made = BM25Retriever.from_persist_dir(sys.argv[2])
    print(json.dumps([[s.node.node_id, s.node.text, s.node.metadata, s.score] for s in made.retrieve(sys.argv[3])]))
"""


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["langchain", "llama"])
def test_another_process_reads_it_and_finds_the_same(framework, tmp_path):
    question = questions(2)[1]
    if framework == "langchain":
        made = lc.BM25Retriever.from_documents(documents(), k=4, b=0.5)
        made.save(tmp_path)
        expected = [[d.id, d.page_content, d.metadata] for d in made.invoke(question)]
    else:
        made = li.BM25Retriever.from_nodes(nodes(), similarity_top_k=4, b=0.5)
        made.persist(tmp_path)
        expected = [[s.node.node_id, s.node.text, s.node.metadata, s.score] for s in made.retrieve(question)]
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, framework, str(tmp_path), question], capture_output=True, text=True,
        check=False, timeout=120, env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == expected


def test_what_is_saved_comes_back_as_it_was(tmp_path):
    given = [Document(page_content="茶\u2028叶\n", metadata={"深": {"层": [1, None, 0.5, True]}}, id="一")]
    lc.BM25Retriever(given, k=3).save(tmp_path / "new" / "folder")
    made = lc.BM25Retriever.load(tmp_path / "new" / "folder", b=0.5)
    assert (made.documents, made.k, made.b) == (given, 3, 0.5)
    whole = TextNode(text="绿茶", metadata={"a": 1}, excluded_llm_metadata_keys=["a"])
    whole.relationships[NodeRelationship.SOURCE] = LlamaDocument(text="茶", id_="doc").as_related_node_info()
    stored = [
        whole,
        IndexNode(text="目录", index_id="x"),
        ImageNode(text="图", image_path="a.png"),
        LlamaDocument(text="猫"),
    ]
    li.BM25Retriever(stored).persist(tmp_path)
    again = li.BM25Retriever.from_persist_dir(tmp_path, similarity_top_k=1)
    assert again.nodes == stored
    assert list(map(type, again.nodes)) == list(map(type, stored))
    assert again.nodes[0].ref_doc_id == "doc"
    assert again.similarity_top_k == 1


@pytest.mark.parametrize(
    "bad", [{"day": date(2026, 12, 1)}, {1: "a"}, {"pair": (1, 2)}, {"n": float("nan")}, {"s": "\ud800"}]
)
def test_metadata_that_json_cannot_give_back_is_refused_and_the_old_file_stays(bad, tmp_path):
    lc.BM25Retriever.from_texts(["茶叶"]).save(tmp_path)
    made = lc.BM25Retriever([Document(page_content="猫", id="cat", metadata=bad)])
    with pytest.raises(zr.InputError, match="The document 'cat' has metadata that JSON cannot give back"):
        made.save(tmp_path)
    assert [document.page_content for document in lc.BM25Retriever.load(tmp_path).documents] == ["茶叶"]
    assert os.listdir(tmp_path) == ["bm25.jsonl"]


@pytest.mark.parametrize("content", [None, b"", b"{}\n", b'{"format": 1}\n', b"\xff\xfe", b"[1]\n", b'{"format": 9}\n'])
def test_a_folder_without_a_whole_index_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "bm25.jsonl").write_bytes(content)
    for load in (lc.BM25Retriever.load, li.BM25Retriever.from_persist_dir):
        with pytest.raises(zr.CheckpointError, match=r"Save|holds no"):
            load(tmp_path)


def test_one_framework_does_not_read_the_others_file(tmp_path):
    lc.BM25Retriever.from_texts(["茶叶"]).save(tmp_path)
    with pytest.raises(zr.CheckpointError, match="saved by another framework"):
        li.BM25Retriever.from_persist_dir(tmp_path)
    li.BM25Retriever([TextNode(text="茶叶")]).persist(tmp_path)
    with pytest.raises(zr.CheckpointError, match="saved by another framework"):
        lc.BM25Retriever.load(tmp_path)
    cut = (tmp_path / "bm25.jsonl").read_text(encoding="utf-8").splitlines()[0]
    (tmp_path / "bm25.jsonl").write_text(cut + "\n", encoding="utf-8")
    with pytest.raises(zr.CheckpointError, match="0 documents are not what it says"):
        li.BM25Retriever.from_persist_dir(tmp_path)
