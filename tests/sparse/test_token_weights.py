"""The sparse side of bge-m3 against transformers' eager class and the rule in numpy; every engine, and a server."""

import asyncio
import logging
from contextlib import contextmanager

import numpy as np
import pytest

import zh_retrieval as zr
from tests.engines import ENGINES, load_by
from tests.server.serving import Server
from tests.without_torch import torch
from zh_retrieval.server.settings import Settings
from zh_retrieval.testing import FakeEncoder

OPTIONS = {"device": "cpu", "dtype": "float32"}
SENTENCE = "今天天气很好，我们去公园散步，然后回家做饭。"
TEXTS = ["", "好", SENTENCE, "Hello world 123", SENTENCE * 8, "𰻝", SENTENCE]


@pytest.fixture(scope="module")
def reference(m3):
    """Return ids -> {token id: weight}, by FlagEmbedding's rule."""
    from transformers import AutoModel

    model = AutoModel.from_pretrained(m3, attn_implementation="eager").eval()
    head = torch.load(m3 / "sparse_linear.pt", weights_only=True)

    def weights(ids):
        with torch.no_grad():
            hidden = model(torch.tensor([list(ids)])).last_hidden_state[0].numpy()
        each = np.maximum(hidden @ head["weight"].numpy()[0] + head["bias"].numpy()[0], 0)
        found = {}
        for token, weight in zip(ids, each.tolist(), strict=True):
            if token not in (0, 1, 2, 3) and weight > 0:
                found[token] = max(weight, found.get(token, 0.0))
        return found

    return weights


@pytest.fixture(scope="module")
def server(m3):
    """Return a server of the tiny checkpoint and of BM25."""
    running = Server(Settings((f"bge-m3={m3}", "bm25-zh"), OPTIONS))
    yield running
    running.stop()


@pytest.fixture(params=[*ENGINES, "remote"])
def sparse(request, m3, server):
    if request.param == "remote":
        handle = zr.load_sparse_encoder("bge-m3", base_url=server.url, dimensions=64)
    else:
        handle = load_by(request.param, zr.load_sparse_encoder, "bge-m3", path=m3, private=True, **OPTIONS)
    with handle:
        yield handle


@contextmanager
def local(m3, **options):
    with zr.load_sparse_encoder("bge-m3", path=m3, **{**OPTIONS, **options}) as handle:
        yield handle


def ids_of(m3, texts):
    with local(m3) as handle:
        return [handle._documents([text]).prepare(0, 1)[0].ids for text in texts]


def assert_equal(vector, expected):
    assert vector.indices.dtype == np.uint32
    assert vector.values.dtype == np.float32
    assert vector.indices.tolist() == sorted(expected)
    np.testing.assert_allclose(vector.values, [expected[index] for index in sorted(expected)], atol=1e-5)


def test_weights_equal_the_reference_alone_and_in_mixed_batches(sparse, m3, reference):
    expected = [reference(ids) for ids in ids_of(m3, TEXTS)]
    assert sum(map(len, expected)) > 20
    for text, vector, wanted in zip(TEXTS, sparse.encode_documents(TEXTS), expected, strict=True):
        assert_equal(vector, wanted)
        assert_equal(sparse.encode_documents([text])[0], wanted)
        assert_equal(asyncio.run(sparse.aencode_queries([text]))[0], wanted)
    assert sparse.encode_documents([]) == []
    assert not sparse.needs_idf


def test_both_vectors_of_a_text_come_of_one_pass(sparse, m3):
    with zr.load_encoder("bge-m3", path=m3, **OPTIONS) as dense:
        rows, vectors = sparse.encode_documents_both(TEXTS)
        np.testing.assert_allclose(rows, dense.encode_documents(TEXTS), atol=1e-5)
        assert [len(each) for each in vectors] == [len(each) for each in sparse.encode_documents(TEXTS)]
        rows, vectors = asyncio.run(sparse.aencode_queries_both(TEXTS[:2]))
        assert (rows.shape, len(vectors), sparse.dimension) == ((2, 64), 2, 64)


def test_dense_and_sparse_handles_share_the_weights_and_a_call_for_both_costs_one_pass(m3):
    with local(m3) as sparse, zr.load_encoder("bge-m3", path=m3, **OPTIONS) as dense:
        assert sparse._model is dense._model
        before = sparse.batches
        sparse.encode_documents_both([SENTENCE])
        assert sparse.batches == before + 1
        assert sparse.fingerprint != dense.fingerprint


def test_concurrent_dense_and_sparse_calls_of_one_batch_get_their_own_rows(m3):
    async def both(sparse, dense):
        return await asyncio.gather(
            *(sparse.aencode_documents([text]) for text in TEXTS), *(dense.aencode_documents([text]) for text in TEXTS)
        )

    with local(m3) as sparse, zr.load_encoder("bge-m3", path=m3, **OPTIONS) as dense:
        found = asyncio.run(both(sparse, dense))
        for (vector,), wanted in zip(found[: len(TEXTS)], sparse.encode_documents(TEXTS), strict=True):
            assert_equal(vector, wanted.as_dict())
        np.testing.assert_allclose(np.concatenate(found[len(TEXTS) :]), dense.encode_documents(TEXTS), atol=1e-5)


def test_long_texts_are_cut_with_one_warning_or_refused(m3, caplog):
    with local(m3, max_length=16) as sparse, local(m3, max_length=16, overflow="error") as strict:
        with caplog.at_level(logging.WARNING):
            (vector,) = sparse.encode_documents([SENTENCE * 8])
        assert [record.message[:38] for record in caplog.records] == ["1 of 1 texts were cut to 16 tokens (th"]
        assert 0 < len(vector) <= 14
        with pytest.raises(zr.InputError, match=r"texts\[1\] has at least \d+ tokens|texts\[1\] has \d+ tokens"):
            strict.encode_documents(["好", SENTENCE * 8])


def test_a_text_of_more_tokens_than_a_row_holds_keeps_all_its_weights(m3, reference):
    text = "".join(chr(0x4E00 + 7 * number) for number in range(250))  # a row has 64 numbers
    (ids,) = ids_of(m3, [text])
    assert len(ids) > 128
    with local(m3) as sparse:
        assert_equal(sparse.encode_documents([text])[0], reference(ids))


def test_rounded_weights_give_nearly_the_same(m3):
    with local(m3) as sparse, local(m3, quantization="int8") as rounded:
        assert sparse.fingerprint != rounded.fingerprint
        for exact, near in zip(sparse.encode_documents(TEXTS), rounded.encode_documents(TEXTS), strict=True):
            wanted, found = exact.as_dict(), near.as_dict()
            assert max((abs(wanted.get(i, 0) - found.get(i, 0)) for i in {*wanted, *found}), default=0) < 0.06


def test_another_linear_layer_is_another_sparse_model_and_the_same_dense_one(m3, tmp_path):
    import shutil

    copy = shutil.copytree(m3, tmp_path / "copy")
    torch.save({"weight": torch.ones(1, 64), "bias": torch.zeros(1)}, copy / "sparse_linear.pt")
    with local(m3) as sparse, local(copy) as other:
        assert sparse.fingerprint != other.fingerprint
        assert sparse.weights_digest() == other.weights_digest()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "no sparse_linear.pt"),
        ({"weight": (1, 32), "bias": (1,)}, r"expected weight \(1, 64\) and bias \(1,\)"),
        ({"weight": (1, 64)}, "expected weight"),
        (b"no archive", "cannot be read"),
        ("nan", "NaN or Inf"),
    ],
)
def test_a_head_that_does_not_fit_is_refused(m3, tmp_path, content, said):
    import shutil

    copy = shutil.copytree(m3, tmp_path / "copy")
    file = copy / "sparse_linear.pt"
    file.unlink()
    if isinstance(content, bytes):
        file.write_bytes(content)
    elif content == "nan":
        torch.save({"weight": torch.full((1, 64), float("nan")), "bias": torch.zeros(1)}, file)
    elif content:
        torch.save({name: torch.zeros(shape) for name, shape in content.items()}, file)
    with pytest.raises(zr.CheckpointError, match=said):
        zr.load_sparse_encoder("bge-m3", path=copy, **OPTIONS)


class Foreign:
    def __reduce__(self):
        return print, ("run",)


def test_a_pickle_that_holds_more_is_not_run(m3, tmp_path, capsys):
    import shutil

    copy = shutil.copytree(m3, tmp_path / "copy")
    torch.save({"weight": Foreign()}, copy / "sparse_linear.pt")
    with pytest.raises(zr.CheckpointError, match="holds more than tensors and was not run"):
        zr.load_sparse_encoder("bge-m3", path=copy, **OPTIONS)
    assert capsys.readouterr().out == ""


def test_a_checkpoint_without_a_sparse_side_is_an_embedder_as_before(m3, tmp_path):
    import shutil

    copy = shutil.copytree(m3, tmp_path / "copy")
    (copy / "sparse_linear.pt").unlink()
    with zr.load_encoder("bge-m3", path=copy, **OPTIONS) as plain, zr.load_encoder("bge-m3", path=m3, **OPTIONS) as m3s:
        np.testing.assert_allclose(plain.encode_documents(TEXTS), m3s.encode_documents(TEXTS), atol=1e-5)
        assert plain.fingerprint == m3s.fingerprint


def test_tei_s_route_gives_what_the_handle_gives(server, m3):
    with local(m3) as sparse:
        wanted = sparse.encode_documents(["好", SENTENCE])
    body = {"model": "bge-m3", "inputs": ["好", SENTENCE], "truncate": True, "prompt_name": "document"}
    answer = server.post("/embed_sparse", body)
    assert answer.headers["x-side"] == "document"
    for entries, vector in zip(answer.json(), wanted, strict=True):
        assert_equal(vector, {entry["index"]: entry["value"] for entry in entries})
    bm25 = zr.load_sparse_encoder("bm25-zh")
    answer = server.post("/embed_sparse", {"model": "bm25-zh", "inputs": "绿茶", "prompt_name": "query"}).json()
    assert answer == [[{"index": int(bm25.encode_queries(["绿茶"])[0].indices[0]), "value": 1.0}]]


def test_requests_for_sparse_vectors_have_the_limits_of_dense_ones(m3):
    settings = Settings((f"bge-m3={m3}",), {**OPTIONS, "max_length": 16}, max_texts=2)
    running = Server(settings)
    try:
        long = {"inputs": [SENTENCE * 8]}
        cut = running.post("/embed_sparse", long)
        assert (cut.status_code, cut.headers["x-truncated"]) == (200, "1")
        bodies = [
            {**long, "truncate": False}, {"inputs": ["好"] * 3}, {"inputs": [""]}, {"inputs": []}, {"inputs": [[1, 2]]},
            {"inputs": ["好"], "truncation_direction": "left"}, {"inputs": ["好"], "prompt_name": "aside"},
        ]  # fmt: skip
        statuses = [running.post("/embed_sparse", body).status_code for body in bodies]
        assert statuses == [running.post("/embed", body).status_code for body in bodies]
        assert set(statuses) == {400, 422}
        strict = zr.load_sparse_encoder("bge-m3", base_url=running.url, dimensions=64, overflow="error")
        with strict, pytest.raises(zr.InputError, match="1 of 3 texts were cut to 16 tokens"):
            strict.encode_documents(["好", "茶", SENTENCE * 8])
    finally:
        running.stop()


def test_a_server_without_a_sparse_side_says_so(m3):
    running = Server(Settings(handles={"e5-small-zh": FakeEncoder()}))
    try:
        answer = running.post("/embed_sparse", {"inputs": ["好"]})
        assert answer.status_code in (404, 422)
        assert "no single model of sparse vectors" in answer.text
        assert (
            "gives no sparse vectors" in running.post("/embed_sparse", {"model": "e5-small-zh", "inputs": ["好"]}).text
        )
        with pytest.raises(zr.UnknownModelError, match="does not serve bge-m3"):
            zr.load_sparse_encoder("bge-m3", base_url=running.url)
        with pytest.raises(zr.ConfigError, match="has no sparse vectors here"):
            zr.load_sparse_encoder("bge-m3", base_url=running.url, dialect="tei")
    finally:
        running.stop()
