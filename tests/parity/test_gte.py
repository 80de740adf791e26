"""GTE beyond the catalogue's rows: the layouts it is published and saved in, its rotary positions, what is refused."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from langchain_zh_retrieval import ModelScopeEmbeddings, ModelScopeReranker
from llama_index_zh_retrieval import ModelScopeEmbedding
from llama_index_zh_retrieval import ModelScopeReranker as LlamaReranker
from tests.engines import ENGINES, load_by
from tests.parity import gte_reference
from tests.tiny_models import tiny_gte

EMBEDDER, RERANKER = "gte-multilingual-base", "gte-multilingual-reranker-base"
OPTIONS = {"device": "cpu", "dtype": "float32", "private": True}
SENTENCE = "今天天气很好，我们去公园散步，然后回家做饭。"
TEXTS = ["", "好", SENTENCE, "Hello world 123", SENTENCE * 6]
PAIRS = [("天气怎么样", SENTENCE), ("猫", ""), ("今天去哪里散步？", SENTENCE * 4)]


def change(folder, **settings):
    file = folder / "config.json"
    said = json.loads(file.read_text(encoding="utf-8")) | settings
    said = {name: value for name, value in said.items() if value is not None}
    file.write_text(json.dumps(said), encoding="utf-8")


def vectors(model, encoder, texts):
    """Return row 0 of transformers' class for the ids that the encoder makes of texts."""
    with torch.no_grad():
        rows = [
            model(torch.tensor([list(item.ids)])).last_hidden_state[0, 0]
            for item in encoder._documents(texts).prepare(0, len(texts))
        ]
    return torch.nn.functional.normalize(torch.stack(rows), dim=-1).numpy()


def assert_vectors(folder, engine, texts=TEXTS, atol=1e-5):
    model = gte_reference.body(folder)
    with load_by(engine, zr.load_encoder, EMBEDDER, path=folder, **OPTIONS) as encoder:
        np.testing.assert_allclose(encoder.encode_documents(texts), vectors(model, encoder, texts), atol=atol)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "layout",
    [
        {"prefix": "new.", "head": "tokens", "types": 1},  # iic/gte_sentence-embedding_multilingual-base
        {"prefix": "new.", "head": "none", "types": 0},  # gte-base-en-v1.5 has no token types
        {"prefix": "", "head": "none", "types": 2},
        {"prefix": "gte.", "head": "tokens", "types": 1},
    ],
    ids=str,
)
def test_every_published_layout_is_read(tmp_path, layout, engine):
    assert_vectors(tiny_gte(tmp_path, **layout), engine)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    "rope",
    [
        {"rope_scaling": None, "rope_theta": 160000},
        {"rope_scaling": {"type": "ntk", "factor": 2.0}, "rope_theta": 10000},
        {"rope_scaling": None, "rope_theta": None,
         "rope_parameters": {"rope_type": "linear", "factor": 1.5, "rope_theta": 160000.0}},
    ],
    ids=["none", "ntk", "linear"],
)  # fmt: skip
def test_rotary_positions_are_those_of_config_json(tmp_path, rope, engine):
    folder = tiny_gte(tmp_path)
    change(folder, **rope)
    assert_vectors(folder, engine)


def test_other_rotary_positions_give_other_vectors(tmp_path):
    found = []
    for factor in (8.0, 2.0):
        folder = tiny_gte(tmp_path / str(factor))
        change(folder, rope_scaling={"type": "ntk", "factor": factor})
        with zr.load_encoder(EMBEDDER, path=folder, **OPTIONS) as encoder:
            found.append(encoder.encode_documents(TEXTS))
    assert np.abs(found[0] - found[1])[2:].max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("engine", ENGINES)
def test_positions_are_right_to_the_end_of_a_long_text(tmp_path, engine):
    """Angles of thousands of radians: float32 frequencies that differ in their last bit turn a pair by 1e-4."""
    assert_vectors(tiny_gte(tmp_path), engine, [SENTENCE * 150], atol=2e-5)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("labels", [1, 2])
def test_a_folder_that_transformers_itself_saved_is_read(tmp_path, labels, engine):
    said = gte_reference.config(tiny_gte(tmp_path / "published", head="pairs"))
    import transformers

    said.num_labels = labels
    model = transformers.GteForSequenceClassification(said).eval()
    folder = tmp_path / "saved"
    model.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes((tmp_path / "published" / "tokenizer.json").read_bytes())
    with load_by(engine, zr.load_reranker, RERANKER, path=folder, **OPTIONS) as reranker:
        sequences = reranker._scoring(PAIRS).prepare(0, len(PAIRS))
        with torch.no_grad():
            logits = torch.cat([model(torch.tensor([list(item.ids)])).logits for item in sequences]).numpy()
        expected = logits[:, 0] if labels == 1 else logits[:, 1] - logits[:, 0]
        np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=1e-5)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_vocabulary_of_berts_kind_has_the_second_texts_type(tmp_path, engine, registered):
    """`[CLS] a [SEP] b [SEP]` on a body with two token types."""
    spec = replace(zr.get_spec(RERANKER), name="typed", aliases=(), sources=(), separator=("[SEP]",))
    folder = tiny_gte(tmp_path, head="pairs", types=2)
    words = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    words["model"]["vocab"][41000][0] = "[SEP]"
    (folder / "tokenizer.json").write_text(json.dumps(words), encoding="utf-8")
    model = gte_reference.classifier(folder)
    with load_by(engine, zr.load_reranker, registered(spec), path=folder, **OPTIONS) as reranker:
        expected = []
        for item in reranker._scoring(PAIRS).prepare(0, len(PAIRS)):
            types = [0] * item.second + [1] * (len(item.ids) - item.second)
            with torch.no_grad():
                logits = model(torch.tensor([list(item.ids)]), token_type_ids=torch.tensor([types])).logits
            expected.append(logits[0, 0].item())
        np.testing.assert_allclose(reranker.score(PAIRS), expected, atol=1e-5)


def test_both_frameworks_take_both_and_int8_stays_close(tmp_path):
    from langchain_core.documents import Document
    from llama_index.core.schema import NodeWithScore, TextNode

    body, pairs = tiny_gte(tmp_path / "body"), tiny_gte(tmp_path / "pairs", head="pairs", seed=0)
    options = {"device": "cpu", "dtype": "float32"}
    with zr.load_encoder(EMBEDDER, path=body, **options) as encoder:
        exact = encoder.encode_documents(TEXTS[1:])
    for found in (
        ModelScopeEmbeddings(EMBEDDER, path=body, **options).embed_documents(TEXTS[1:]),
        ModelScopeEmbedding(EMBEDDER, path=body, **options).get_text_embedding_batch(TEXTS[1:]),
    ):
        np.testing.assert_allclose(found, exact, atol=1e-5)
    with zr.load_encoder(EMBEDDER, path=body, device="cpu", quantization="int8") as rounded:
        assert (rounded.encode_documents(TEXTS[1:]) * exact).sum(1).min() > 0.99
    with zr.load_encoder(EMBEDDER, path=body, device="cpu") as usual:  # dtype="auto"
        assert (usual.encode_documents(TEXTS[1:]) * exact).sum(1).min() > 0.999
    query, texts = "天气", [SENTENCE, "他们在地上", SENTENCE * 2]
    with zr.load_reranker(RERANKER, path=pairs, **options) as reranker:
        scores, pair_scores = reranker.score([(query, text) for text in texts]), reranker.score(PAIRS)
    order = [texts[index] for index in np.argsort(-scores)]
    chain, engine = (cls(RERANKER, path=pairs, **options) for cls in (ModelScopeReranker, LlamaReranker))
    found = chain.compress_documents([Document(page_content=text) for text in texts], query)
    assert [document.page_content for document in found] == order
    nodes = engine.postprocess_nodes([NodeWithScore(node=TextNode(text=text)) for text in texts], query_str=query)
    assert [node.node.text for node in nodes] == order
    with zr.load_reranker(RERANKER, path=pairs, device="cpu", quantization="int8") as rounded:
        off = np.abs(rounded.score(PAIRS) - pair_scores)
    assert off.max() < 0.1 * np.std(pair_scores)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"position_embedding_type": "absolute"}, "'position_embedding_type': 'absolute'.*expected.*'rope'"),
        ({"hidden_act": "relu"}, "'hidden_act': 'relu'.*expected.*'gelu'"),
        ({"layer_norm_type": "rms_norm"}, "'layer_norm_type': 'rms_norm'"),
        ({"logn_attention_scale": True}, "'logn_attention_scale': True"),
        ({"pack_qkv": False}, "'pack_qkv': False"),
        ({"rope_scaling": {"type": "dynamic", "factor": 2.0}}, "rotary positions .*dynamic.* expected"),
        ({"rope_scaling": {"type": "ntk", "factor": 2.0, "mixed_b": 0.5}}, "rotary positions .*mixed_b"),
        ({"rope_theta": None}, "rope_theta None, expected a rope_theta"),
        ({"type_vocab_size": None}, "lacks type_vocab_size"),
        ({"architectures": ["NewForSequenceClassification"]}, "gives scores, but gte-multilingual-base gives vectors"),
    ],
)
def test_another_variant_is_refused(tmp_path, settings, said, engine):
    folder = tiny_gte(tmp_path)
    change(folder, **settings)
    with pytest.raises(zr.CheckpointError, match=said):
        load_by(engine, zr.load_encoder, EMBEDDER, path=folder, **OPTIONS)


@pytest.mark.parametrize("engine", ENGINES)
def test_a_tensor_that_is_missing_is_named(tmp_path, engine):
    from safetensors.torch import load_file, save_file

    folder = tiny_gte(tmp_path)
    tensors = load_file(folder / "model.safetensors")
    del tensors["new.encoder.layer.1.attention.qkv_proj.bias"]
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(zr.CheckpointError, match=r"missing: encoder\.layer\.1\.attention\.qkv_proj\.bias"):
        load_by(engine, zr.load_encoder, EMBEDDER, path=folder, **OPTIONS)


def test_code_that_config_json_names_is_never_imported(tmp_path):
    folder = tiny_gte(tmp_path)
    (folder / "modeling.py").write_text("raise SystemExit('foreign code ran')", encoding="utf-8")
    change(folder, auto_map={"AutoConfig": "modeling.NewConfig", "AutoModel": "modeling.NewModel"})
    assert_vectors(folder, ENGINES[-1])
