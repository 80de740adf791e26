"""The demo corpus ranked by both sides and fused, on the core's functions alone: what every other way must equal."""

from functools import cache

import numpy as np
from langchain_core.documents import Document
from langchain_core.embeddings import Embeddings
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.schema import TextNode
from pydantic import PrivateAttr

from tests.contract.demo_corpus import passage_vectors, passages
from zh_retrieval.sparse.fusion import fuse
from zh_retrieval.sparse.index import BM25Index


def documents():
    """Return the passages as documents without ids of their own."""
    return [Document(page_content=text, metadata={"id": name, "topic": topic}) for name, text, topic in passages()]


def nodes():
    """Return the passages as nodes, whose metadata nobody embeds."""
    kept_out = ["topic"]
    return [
        TextNode(id_=name, text=text, metadata={"topic": topic}, excluded_embed_metadata_keys=kept_out)
        for name, text, topic in passages()
    ]


def vectors_of(encoder, texts):
    """Return the vectors of texts; those of passages are computed once."""
    known = dict(zip((text for _, text, _ in passages()), passage_vectors(encoder), strict=True))
    return [(known[text] if text in known else encoder.encode_documents([text])[0]).tolist() for text in texts]


class KnownVectors(Embeddings):
    """What `ModelScopeEmbeddings("e5-small-zh")` gives, with each passage computed once in all tests."""

    def __init__(self, encoder):
        self.encoder = encoder

    def embed_documents(self, texts):
        return vectors_of(self.encoder, texts)

    def embed_query(self, text):
        return self.encoder.encode_queries([text])[0].tolist()


class KnownEmbedding(BaseEmbedding):
    """The same for LlamaIndex."""

    _encoder = PrivateAttr()

    def __init__(self, encoder):
        super().__init__(embed_batch_size=100)
        self._encoder = encoder

    def _get_text_embedding(self, text):
        return vectors_of(self._encoder, [text])[0]

    def _get_query_embedding(self, query):
        return self._encoder.encode_queries([query])[0].tolist()

    async def _aget_query_embedding(self, query):
        return self._get_query_embedding(query)


@cache
def index():
    return BM25Index([text for _, text, _ in passages()])


def dense_side(encoder, question, depth):
    """Return (id, cosine) of the nearest passages, best first."""
    scores = passage_vectors(encoder) @ encoder.encode_queries([question])[0]
    return [(passages()[place][0], float(scores[place])) for place in np.argsort(-scores, kind="stable")[:depth]]


def lexical_side(question, depth):
    """Return (id, BM25) of the passages that share a term, best first."""
    return [(passages()[place][0], score) for place, score in index().search(question, depth)]


def fused_by_the_core(encoder, question, k, *, weight=0.5, depth=100):
    """Return (id, fused score) of the k best."""
    fused = fuse(dense_side(encoder, question, depth), lexical_side(question, depth), weight=weight, depth=depth)
    return [(each.id, each.score) for each in fused[:k]]
