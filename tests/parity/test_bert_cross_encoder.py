"""BERT with a classification head, of one label and of two, against transformers' class and sentence-transformers'."""

import json

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from langchain_zh_retrieval import BGEReranker
from llama_index_zh_retrieval import BGEReranker as LlamaReranker
from tests.engines import ENGINES, load_by
from tests.tiny_models import tiny_bert_reranker, tiny_xlmr_reranker

OPTIONS = {"device": "cpu", "dtype": "float32"}
SENTENCE = "今天天气很好，我们去公园散步。"
PAIRS = [("天气", SENTENCE), ("公园在哪里", SENTENCE * 3), ("散步", ""), ("ab 12", "他们在地上"), ("好", SENTENCE * 60)]
JUDGE = zr.ModelSpec("judge", task="reranking", architecture="bert", scoring="classification")
XLM_JUDGE = zr.ModelSpec("xlm", task="reranking", architecture="xlm-roberta", scoring="classification")


@pytest.fixture(scope="module", params=[1, 2], ids=["one label", "two labels"])
def folder(request, tmp_path_factory):
    return tiny_bert_reranker(tmp_path_factory.mktemp("judge"), labels=request.param)


def logits_of(folder):
    from transformers import AutoTokenizer, BertForSequenceClassification

    model = BertForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    options = {"truncation": "only_second", "max_length": 512, "return_tensors": "pt"}
    with torch.no_grad():
        return np.concatenate([model(**tokenizer([query], [text], **options)).logits for query, text in PAIRS])


def margin(logits):
    return logits[:, 0] if logits.shape[1] == 1 else logits[:, 1] - logits[:, 0]


@pytest.mark.parametrize("engine", ENGINES)
def test_scores_equal_the_eager_class(folder, engine):
    expected = margin(logits_of(folder))
    with load_by(engine, zr.load_reranker, JUDGE, path=folder, **OPTIONS) as ours:
        np.testing.assert_allclose(ours.score(PAIRS), expected, atol=1e-5)
        np.testing.assert_allclose([ours.score([pair])[0] for pair in PAIRS], expected, atol=1e-5)


def test_scores_equal_what_sentence_transformers_saves_and_predicts(folder, tmp_path):
    from sentence_transformers import CrossEncoder

    peer = CrossEncoder(str(folder), max_length=64, device="cpu")
    peer.save(str(tmp_path / "saved"))
    pairs = PAIRS[:4]
    raw = np.asarray(peer.predict(pairs, activation_fn=torch.nn.Identity())).reshape(len(pairs), -1)
    likely = 1 / (1 + np.exp(-raw[:, 0])) if raw.shape[1] == 1 else peer.predict(pairs, apply_softmax=True)[:, 1]
    with zr.load_reranker(JUDGE, path=tmp_path / "saved", **OPTIONS) as ours:
        assert ours.max_length == 64
        np.testing.assert_allclose(ours.score(pairs), margin(raw), atol=1e-5)
        np.testing.assert_allclose(1 / (1 + np.exp(-ours.score(pairs))), likely, atol=1e-5)


def test_both_frameworks_rank_by_them_and_int8_stays_close(folder, registered):
    from langchain_core.documents import Document
    from llama_index.core.schema import NodeWithScore, TextNode

    query, texts = "天气", [SENTENCE, "他们在地上", SENTENCE * 2]
    with zr.load_reranker(JUDGE, path=folder, **OPTIONS) as ours:
        exact, scores = ours.score(PAIRS), ours.score([(query, text) for text in texts])
    order = [texts[index] for index in np.argsort(-scores)]
    name = registered(JUDGE)
    chain, engine = (cls(name, path=folder, **OPTIONS) for cls in (BGEReranker, LlamaReranker))
    found = chain.compress_documents([Document(page_content=text) for text in texts], query)
    assert [document.page_content for document in found] == order
    nodes = engine.postprocess_nodes([NodeWithScore(node=TextNode(text=text)) for text in texts], query_str=query)
    assert [node.node.text for node in nodes] == order
    with zr.load_reranker(JUDGE, path=folder, device="cpu", quantization="int8") as rounded:
        off = np.abs(rounded.score(PAIRS) - exact)
    assert off.max() < 0.1 * np.std(exact)


@pytest.mark.parametrize("engine", ENGINES)
def test_the_second_text_has_its_own_type(tmp_path, engine):
    folder = tiny_bert_reranker(tmp_path)
    with load_by(engine, zr.load_reranker, JUDGE, path=folder, **OPTIONS) as ours:
        (tokens,) = ours._scoring([("天气", "好")]).prepare(0, 1)
        assert tokens.second == 4  # [CLS] 天 气 [SEP]
        typed, plain = ours.score(PAIRS[:1])[0], ours._model.engine.run([type(tokens)(tokens.ids)])
        assert abs(ours._model.engine.run([tokens])[0, 0] - plain[0, 0]) > 1e-3
    config = json.loads((folder / "config.json").read_text())
    assert config["type_vocab_size"] == 2
    assert np.isfinite(typed)


@pytest.mark.parametrize("engine", ENGINES)
def test_two_labels_of_xlm_r_are_their_difference(tmp_path, engine):
    from transformers import AutoTokenizer, XLMRobertaForSequenceClassification

    folder = tiny_xlmr_reranker(tmp_path, labels=2)
    model = XLMRobertaForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    with torch.no_grad():
        rows = [model(**tokenizer(*pair, return_tensors="pt")).logits.numpy() for pair in PAIRS[:2]]
    with load_by(engine, zr.load_reranker, XLM_JUDGE, path=folder, **OPTIONS) as ours:
        np.testing.assert_allclose(ours.score(PAIRS[:2]), margin(np.concatenate(rows)), atol=1e-5)


@pytest.mark.parametrize(
    "labels", [{"id2label": {str(n): str(n) for n in range(3)}}, {"num_labels": 7}, {"num_labels": "9" * 999}]
)
def test_more_labels_are_refused(tmp_path, labels):
    folder = tiny_bert_reranker(tmp_path, labels=2)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "id2label": None, **labels}))
    with pytest.raises(zr.CheckpointError, match=r"config.json describes \w{1,40} labels, expected the 1 or 2"):
        zr.load_reranker(JUDGE, path=folder, **OPTIONS)
