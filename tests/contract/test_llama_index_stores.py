"""LlamaIndex over stores on disk: add, search, filter, restart, search again; order as by brute force."""

import json
import math
import os
import subprocess
import sys

import pytest
from llama_index.core import StorageContext, VectorStoreIndex, load_index_from_storage
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterCondition, FilterOperator, MetadataFilter, MetadataFilters

from llama_index_zh_retrieval import ModelScopeEmbedding
from tests.contract.demo_corpus import OPTIONS, brute_force, passages, questions

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

TOPIC1 = MetadataFilters(filters=[MetadataFilter(key="topic", value="topic1")])


def nodes():
    return [
        TextNode(id_=name, text=text, metadata={"topic": topic, "place": place}, excluded_embed_metadata_keys=[
            "topic", "place",
        ])
        for place, (name, text, topic) in enumerate(passages())
    ]  # fmt: skip


class Chroma:
    """Chroma, embedded and persistent."""

    def __init__(self, folder):
        import chromadb
        from llama_index.vector_stores.chroma import ChromaVectorStore

        client = chromadb.PersistentClient(path=str(folder))
        collection = client.get_or_create_collection("demo", metadata={"hnsw:space": "cosine"})
        self.store = ChromaVectorStore(chroma_collection=collection)

    def fill(self):
        storage = StorageContext.from_defaults(vector_store=self.store)
        VectorStoreIndex(nodes(), storage_context=storage, embed_model=ModelScopeEmbedding(**OPTIONS))

    def open(self):
        return VectorStoreIndex.from_vector_store(self.store, embed_model=ModelScopeEmbedding(**OPTIONS))

    def insert(self, node):
        self.open().insert_nodes([node])

    similarity = staticmethod(lambda score: 1 + math.log(score))  # LlamaIndex gives exp(-distance)


class Simple:
    """LlamaIndex's own store, persisted as files."""

    def __init__(self, folder):
        self.folder = str(folder)

    def fill(self):
        index = VectorStoreIndex(nodes(), embed_model=ModelScopeEmbedding(**OPTIONS))
        index.storage_context.persist(self.folder)

    def open(self):
        storage = StorageContext.from_defaults(persist_dir=self.folder)
        return load_index_from_storage(storage, embed_model=ModelScopeEmbedding(**OPTIONS))

    def insert(self, node):
        index = self.open()
        index.insert_nodes([node])
        index.storage_context.persist(self.folder)

    similarity = staticmethod(lambda score: score)


KINDS = {"Chroma": Chroma, "Simple": Simple}


def ids(index, question, k, filters=None):
    found = index.as_retriever(similarity_top_k=k, filters=filters).retrieve(question)
    return [scored.node.node_id for scored in found]


@pytest.fixture(scope="module", params=KINDS)
def folder(request, tmp_path_factory):
    """Return a folder that no test changes; its name is the kind of store."""
    made = tmp_path_factory.mktemp("stores") / request.param
    KINDS[request.param](made).fill()
    return made


def reopened(folder):
    """Return what a new program would make of the folder."""
    return KINDS[folder.name](folder)


async def test_a_store_on_disk_ranks_as_brute_force_after_a_restart(folder, encoder):
    kind = reopened(folder)
    retriever = kind.open().as_retriever(similarity_top_k=5)
    for question in questions():
        found = retriever.retrieve(question)
        assert [scored.node.node_id for scored in found] == brute_force(encoder, question, 5)
        assert [scored.node.node_id for scored in await retriever.aretrieve(question)] == brute_force(
            encoder, question, 5
        )
        vectors = encoder.encode_documents([found[0].node.text]), encoder.encode_queries([question])
        assert kind.similarity(found[0].score) == pytest.approx(float(vectors[0][0] @ vectors[1][0]), abs=1e-4)
        assert found[0].node.metadata["topic"].startswith("topic")


def test_metadata_filters_hold(folder, encoder):
    index = reopened(folder).open()
    for question in questions(3):
        assert ids(index, question, 4, TOPIC1) == brute_force(encoder, question, 4, "topic1")


def test_metadata_filters_combine(folder, encoder):
    index, places = reopened(folder).open(), {name: place for place, (name, _, _) in enumerate(passages())}
    filters = MetadataFilters(
        filters=[
            MetadataFilter(key="topic", value=["topic0", "topic1"], operator=FilterOperator.IN),
            MetadataFilter(key="place", value=10, operator=FilterOperator.GTE),
        ],
        condition=FilterCondition.AND,
    )
    for question in questions(3):
        everything = brute_force(encoder, question, len(places))
        kept = [name for name in everything if places[name] >= 10 and places[name] % 3 != 2]
        assert ids(index, question, 6, filters) == kept[:6]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_node_added_after_a_restart_is_found_after_the_next(kind, tmp_path):
    folder = tmp_path / kind
    KINDS[kind](folder).fill()
    reopened(folder).insert(TextNode(id_="new", text="滑雪板要在雪季结束后打蜡保养。", metadata={"topic": "topic1"}))
    index = reopened(folder).open()
    assert ids(index, "滑雪板怎么保养？", 1) == ["new"]
    assert ids(index, "滑雪板怎么保养？", 1, TOPIC1) == ["new"]


PROGRAM = """
import json, pathlib, sys
from tests.contract.demo_corpus import questions
from tests.contract.test_llama_index_stores import TOPIC1, ids, reopened
index = reopened(pathlib.Path(sys.argv[1])).open()
print(json.dumps([[ids(index, q, 5), ids(index, q, 5, TOPIC1)] for q in questions(4)]))
"""


@pytest.mark.slow
def test_another_process_reads_the_store_and_ranks_the_same(folder, encoder):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=False, timeout=120,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    expected = [[brute_force(encoder, q, 5), brute_force(encoder, q, 5, "topic1")] for q in questions(4)]
    assert json.loads(done.stdout.splitlines()[-1]) == expected
