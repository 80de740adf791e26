"""What rerank scores are is known once for a handle: never decided for each request."""

import numpy as np
import pytest

import zh_retrieval as zr
from tests.remote.stub import reply, serving
from zh_retrieval.remote.dialects.scale import PROBES

PROBED = {document: 7.0 if place == 0 else -7.0 for _, documents in PROBES for place, document in enumerate(documents)}


def reranking(scale):
    """Score a document by the number that it is."""

    def answer(path, headers, body):
        if path == "/v1/models":
            return reply({"data": [{"id": "bge-reranker-large"}]})
        raw = [PROBED[text] if text in PROBED else float(text) for text in body["documents"]]
        given = [1 / (1 + np.exp(-score)) for score in raw] if scale == "probability" else raw
        return reply({"results": [{"index": i, "relevance_score": float(score)} for i, score in enumerate(given)]})

    return answer


def scores(handle, *numbers):
    return handle.score([("茶", str(number)) for number in numbers]).tolist()


@pytest.mark.parametrize("scale", ["logit", "probability"])
def test_a_score_does_not_depend_on_what_is_asked_beside_it(scale):
    with (
        serving(reranking(scale)) as (url, stub),
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="openai") as handle,
    ):
        together = scores(handle, 0.7, 0.2, -3)
        assert scores(handle, 0.7) == together[:1] == [pytest.approx(0.7)]
        many = scores(handle, 0.6, *[0.1 * (n % 9) for n in range(255)], 1.5, 0.55)  # two requests
        assert many[0] > many[-1]
        assert len([path for path in stub.paths() if path.endswith("rerank")]) == len(PROBES) + 4


def test_the_scale_can_be_said_and_is_not_asked_for_then():
    with (
        serving(reranking("logit")) as (url, stub),
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="openai", score_scale="logit") as handle,
    ):
        assert stub.paths() == ["/v1/models"]
        assert scores(handle, 0.7, 0.2) == pytest.approx([0.7, 0.2])


def test_a_scale_that_proves_wrong_is_an_error_not_another_scale():
    with (
        serving(reranking("logit")) as (url, _),
        zr.load_reranker("bge-reranker-large", base_url=url, dialect="openai", score_scale="probability") as handle,
    ):
        first = scores(handle, 0.7)
        with pytest.raises(zr.RemoteError, match="score_scale='logit'"):
            scores(handle, 0.7, -3)
        assert scores(handle, 0.7) == first
