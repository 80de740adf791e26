"""Folders that sentence-transformers writes: what they say is followed, or refused with both answers."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest

import zh_retrieval as zr
from tests.tiny_models import tiny_bert, tiny_mistral, tiny_xlmr_reranker

OPTIONS = {"device": "cpu", "dtype": "float32"}
TEXTS = ["今天天气很好，我们去公园散步。", "他们在地上", "abc"]
E5_PROMPT = "Instruct: 找出相关的段落\nQuery: "


def sentence_transformer(folder, mode="cls", *, prompts=None, max_length=None, more=(), body=None):
    """Let the real sentence-transformers save a folder with these settings."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer import modules

    body = body or tiny_bert(folder / "body")
    pooling = modules.Pooling(64, pooling_mode=mode)
    parts = [modules.Transformer(str(body), max_seq_length=max_length), pooling, *more, modules.Normalize()]
    model = SentenceTransformer(modules=parts, prompts=prompts, device="cpu")
    model.save(str(folder / "saved"))
    return model, folder / "saved"


def put(file, **settings):
    """Write older settings over a saved file, as earlier versions had them."""
    file.write_text(json.dumps(settings), encoding="utf-8")


def test_a_saved_model_gives_the_vectors_of_sentence_transformers(tmp_path):
    model, saved = sentence_transformer(tmp_path)
    with zr.load_encoder("bge-base-zh", path=saved, **OPTIONS) as ours:
        np.testing.assert_allclose(ours.encode_documents(TEXTS), model.encode(TEXTS), atol=1e-5)
        assert (
            ours.spec.instruction == zr.get_spec("bge-base-zh").instruction
        )  # saved prompts are empty: nobody set one


def test_a_query_prompt_of_the_folder_is_its_instruction(tmp_path):
    model, saved = sentence_transformer(tmp_path, prompts={"query": "检索："})
    with zr.load_encoder("bge-base-zh", path=saved, **OPTIONS) as ours:
        np.testing.assert_allclose(ours.encode_queries(TEXTS), model.encode_query(TEXTS), atol=1e-5)
        np.testing.assert_allclose(ours.encode_queries(TEXTS, instruction=""), model.encode(TEXTS), atol=1e-5)
        assert ours.spec.instruction == "检索："


def test_a_prompt_with_an_instruction_inside_is_read_by_the_recipes_template(tmp_path):
    saved = tiny_mistral(tmp_path)
    put(saved / "modules.json")
    (saved / "modules.json").write_text('[{"type": "sentence_transformers.models.Transformer", "path": ""}]')
    put(saved / "config_sentence_transformers.json", prompts={"query": E5_PROMPT, "sts_query": "else"})
    with (
        zr.load_encoder("e5-mistral", path=saved, **OPTIONS) as ours,
        zr.load_encoder("e5-mistral", path=tiny_mistral(tmp_path / "plain"), **OPTIONS) as plain,
    ):
        assert ours.spec.instruction == "找出相关的段落"
        expected = plain.encode_queries(TEXTS, instruction="找出相关的段落")
        np.testing.assert_allclose(ours.encode_queries(TEXTS), expected, atol=1e-6)
    put(saved / "config_sentence_transformers.json", prompts={"query": "检索："})
    with pytest.raises(zr.CheckpointError, match=r"'检索：', but .* of the form 'Instruct: \.\.\.\\nQuery: '"):
        zr.load_encoder("e5-mistral", path=saved, **OPTIONS)


@pytest.mark.parametrize("where", ["sentence_bert_config.json", "tokenizer_config.json"])
def test_the_length_of_the_folder_is_the_default(tmp_path, where):
    model, saved = sentence_transformer(tmp_path, max_length=16)
    if where == "sentence_bert_config.json":  # versions before 6
        put(saved / where, max_seq_length=16, do_lower_case=False)
    text = TEXTS[0] * 5
    with zr.load_encoder("bge-base-zh", path=saved, **OPTIONS) as ours:
        assert ours.max_length == 16
        np.testing.assert_allclose(ours.encode_documents([text]), model.encode([text]), atol=1e-5)
    with zr.load_encoder("bge-base-zh", path=saved, max_length=300, **OPTIONS) as ours:
        assert ours.max_length == 300


def test_weights_in_a_folder_of_their_own_are_found(tmp_path):
    _, saved = sentence_transformer(tmp_path)
    with zr.load_encoder("bge-base-zh", path=saved, **OPTIONS) as ours:
        expected = ours.encode_documents(TEXTS)
    inner = saved / "0_Transformer"  # as versions before 3 wrote it
    inner.mkdir()
    for file in [*saved.glob("*.safetensors"), *saved.glob("*token*"), saved / "config.json"]:
        file.rename(inner / file.name)
    listing = json.loads((saved / "modules.json").read_text())
    listing[0] |= {"path": "0_Transformer", "type": "sentence_transformers.models.Transformer"}
    (saved / "modules.json").write_text(json.dumps(listing))
    with zr.load_encoder("bge-base-zh", path=saved, **OPTIONS) as ours:
        np.testing.assert_array_equal(ours.encode_documents(TEXTS), expected)


def test_pooling_that_is_not_the_recipes_is_refused_with_both(tmp_path):
    _, saved = sentence_transformer(tmp_path, "mean")
    with pytest.raises(zr.CheckpointError, match=r"pooling: mean, but the recipe of bge-base-zh-v1\.5 says: cls"):
        zr.load_encoder("bge-base-zh", path=saved, **OPTIONS)
    put(saved / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_mean_tokens=False)
    with zr.load_encoder("bge-base-zh", path=saved, **OPTIONS) as ours:
        assert ours.dimension == 64
    put(saved / "1_Pooling" / "config.json", pooling_mode_cls_token=True, pooling_mode_max_tokens=True)
    with pytest.raises(zr.CheckpointError, match=r"pooling: cls\+max, but"):
        zr.load_encoder("bge-base-zh", path=saved, **OPTIONS)


def test_a_module_that_the_recipe_does_not_have_is_refused(tmp_path):
    from sentence_transformers.sentence_transformer import modules

    _, saved = sentence_transformer(tmp_path, more=[modules.LayerNorm(64)])
    with pytest.raises(zr.CheckpointError, match="a module: LayerNorm, but"):
        zr.load_encoder("bge-base-zh", path=saved, **OPTIONS)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        (
            "config_sentence_transformers.json",
            '{"prompts": {"document": "文档："}}',
            r"document prompt: '文档：', but .*''",
        ),
        ("sentence_bert_config.json", '{"max_seq_length": 1024}', "max_seq_length: 1024, but .* at most 512"),
        ("sentence_bert_config.json", '{"max_seq_length": 0}', "max_seq_length: 0, but"),
        ("1_Pooling/config.json", '{"pooling_mode": "cls", "include_prompt": false}', "include_prompt: false, but"),
        ("modules.json", "{", "is not valid JSON"),
        ("modules.json", "{}", "holds dict, expected list"),
        ("modules.json", '[{"type": "Transformer", "path": "../x"}]', "points outside its folder"),
    ],
)
def test_other_contradictions_are_refused_with_both(tmp_path, file, content, said):
    _, saved = sentence_transformer(tmp_path)
    (saved / file).write_text(content, encoding="utf-8")
    with pytest.raises(zr.CheckpointError, match=said):
        zr.load_encoder("bge-base-zh", path=saved, **OPTIONS)


def test_a_model_without_prompts_refuses_one(tmp_path):
    saved = tmp_path / "e5"
    saved.mkdir()
    (saved / "modules.json").write_text("[]")
    put(saved / "config_sentence_transformers.json", prompts={"query": "检索："})
    with pytest.raises(
        zr.CheckpointError, match="query prompt: '检索：', but the recipe of e5-small-zh says: 'query: '"
    ):
        zr.load_encoder("e5-small-zh", path=saved, **OPTIONS)


def test_a_saved_cross_encoder_gives_raw_logits_and_keeps_its_length(tmp_path):
    from sentence_transformers import CrossEncoder
    from torch import nn

    peer = CrossEncoder(str(tiny_xlmr_reranker(tmp_path / "body")), max_length=64, device="cpu")
    peer.save(str(tmp_path / "saved"))
    pairs = [("散步", TEXTS[0]), ("abc", "他们")]
    with zr.load_reranker("bge-reranker-large", path=tmp_path / "saved", **OPTIONS) as ours:
        expected = peer.predict(pairs, activation_fn=nn.Identity())
        np.testing.assert_allclose(ours.score(pairs), expected, atol=1e-5)
        assert ours.max_length == 64


@pytest.mark.parametrize("name", ["query", "检索"])
def test_a_default_prompt_that_documents_do_not_have_is_refused(tmp_path, name):
    model, saved = sentence_transformer(tmp_path, prompts={name: "检索："})
    model.default_prompt_name = name
    model.save(str(saved))
    assert np.abs(model.encode(TEXTS) - model.encode(TEXTS, prompt="")).max() > 1e-3  # documents by the usual method
    said = (
        rf"document prompt \(by default_prompt_name '{name}'\): '检索：', but the recipe of bge-base-zh-v1\.5 says: ''"
    )
    with pytest.raises(zr.CheckpointError, match=said):
        zr.load_encoder("bge-base-zh", path=saved, **OPTIONS)


def test_a_default_prompt_of_queries_is_theirs_where_documents_have_their_own(tmp_path):
    spec = replace(zr.get_spec("e5-small-zh"), name="mine", aliases=(), sources=(), pooling="cls", prefix=("[CLS]",))
    spec = replace(spec, suffix=("[SEP]",))
    model, saved = sentence_transformer(tmp_path, prompts={"检索": "query: ", "passage": "passage: "})
    model.default_prompt_name = "检索"
    model.save(str(saved))
    with zr.load_encoder(spec, path=saved, **OPTIONS) as ours:
        np.testing.assert_allclose(ours.encode_queries(TEXTS), model.encode(TEXTS), atol=1e-5)
        np.testing.assert_allclose(ours.encode_documents(TEXTS), model.encode(TEXTS, prompt_name="passage"), atol=1e-5)
    put(
        saved / "config_sentence_transformers.json",
        prompts={"检索": "ask: ", "passage": "passage: "},
        default_prompt_name="检索",
    )
    with pytest.raises(zr.CheckpointError, match="query prompt: 'ask: ', but the recipe of mine says: 'query: '"):
        zr.load_encoder(spec, path=saved, **OPTIONS)


def test_a_snapshot_is_read_alike_by_name_and_by_path(tmp_path):
    _, saved = sentence_transformer(tmp_path, prompts={"query": "检索："}, max_length=16)
    spec = replace(
        zr.get_spec("bge-base-zh"), name="mine", aliases=(), dimension=64, sources=(zr.Source("modelscope", "me/mine"),)
    )
    snapshot = tmp_path / "cache" / "models" / "me--mine" / "snapshots" / "master"
    shutil.copytree(saved, snapshot)
    texts = [TEXTS[0] * 5, *TEXTS]
    with (
        zr.load_encoder(spec, cache_dir=tmp_path / "cache", local_files_only=True, **OPTIONS) as by_name,
        zr.load_encoder(spec, path=snapshot, **OPTIONS) as by_path,
    ):
        assert by_name.max_length == by_path.max_length == 16
        assert by_name.spec.instruction == "检索："
        np.testing.assert_array_equal(by_name.encode_documents(texts), by_path.encode_documents(texts))
        np.testing.assert_array_equal(by_name.encode_queries(texts), by_path.encode_queries(texts))
