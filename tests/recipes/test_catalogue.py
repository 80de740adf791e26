"""The entries: names, prompts and sizes."""

import json
from dataclasses import replace

import pytest

import zh_retrieval as zr
from zh_retrieval.cli.main import main
from zh_retrieval.recipes.fingerprint import recipe_hash
from zh_retrieval.recipes.situations import SITUATIONS, fitting


def test_no_name_means_two_models():
    names = [name.lower() for spec in zr.MODELS for name in (spec.name, *spec.aliases)]
    assert len(names) == len(set(names))


def test_the_six_models_of_the_mission_come_first_then_the_builtin():
    assert [spec.name for spec in zr.MODELS][:7] == [
        "bge-base-zh-v1.5", "bge-large-zh-v1.5", "jina-embeddings-v2-base-zh", "e5-mistral-7b-instruct",
        "rankinggpt-qwen-7b", "bge-reranker-large", "e5-small-zh",
    ]  # fmt: skip


@pytest.mark.parametrize("spec", zr.MODELS, ids=lambda spec: spec.name)
def test_every_name_alias_and_hub_id_finds_its_entry(spec):
    for name in (spec.name, *spec.aliases, *(source.id for source in spec.sources)):
        assert zr.get_spec(name) is spec
        assert zr.get_spec(name.upper()) is spec


def test_an_unknown_name_suggests_the_closest():
    with pytest.raises(zr.UnknownModelError, match=r"Did you mean bge-base-zh-v1\.5\?"):
        zr.get_spec("bge-bas-zh")
    with pytest.raises(zr.UnknownModelError, match="Known: bge-base-zh"):
        zr.get_spec("完全不同")


@pytest.mark.parametrize(
    ("given", "nearest"),
    [
        ("BAAI/bge-base-zh-v15", r"bge-base-zh-v1\.5 \(BAAI/bge-base-zh-v1\.5\)"),
        ("Xorbits/bge-base-zh-v1.5", r"bge-base-zh-v1\.5 \("),  # an owner whose mirror of another size is known
        ("someone/Qwen3-Embeding-4B", r"qwen3-embedding-4b \(Qwen/Qwen3-Embedding-4B\)"),
        ("/models/bge-reranker-v2_m3/", r"bge-reranker-v2-m3 \("),
        ("somewhere/builtin", "e5-small-zh"),
    ],
)
def test_an_unknown_hub_id_or_folder_suggests_the_nearest_by_its_last_part(given, nearest):
    with pytest.raises(zr.UnknownModelError, match=rf"Did you mean {nearest}.*\?"):
        zr.get_spec(given)


def test_an_unknown_name_of_any_size_is_told_in_few_words():
    with pytest.raises(zr.UnknownModelError) as error:
        zr.get_spec("x/" * 500_000)
    assert len(str(error.value)) < 2000


def test_situations_go_by_what_entries_say():
    assert [spec.name for spec in fitting(zr.MODELS, ["offline"])] == ["e5-small-zh"]
    for word in SITUATIONS:
        found = fitting(zr.MODELS, [word])
        assert found == sorted(found, key=lambda spec: spec.parameters)
    assert {spec.name for spec in fitting(zr.MODELS, ["long", "english"])} >= {"bge-m3", "jina-embeddings-v2-base-zh"}
    small = replace(zr.get_spec("bge-base-zh"), parameters=None, languages=())
    assert [word for word in SITUATIONS if fitting([small], [word])] == []
    assert [spec.name for spec in zr.MODELS if not spec.languages] == []


def test_the_command_lists_what_fits_all_situations(capsys):
    assert main(["models", "--for", "cpu", "--for", "long", "--json"]) == 0
    names = [entry["name"] for entry in json.loads(capsys.readouterr().out)]
    assert names == [spec.name for spec in fitting(zr.MODELS, ["long", "cpu"])]
    assert "jina-embeddings-v2-base-zh" in names
    assert main(["models", "--for", "offline"]) == 0
    assert "offline: nothing may be downloaded" in capsys.readouterr().out


def test_what_a_model_was_trained_for_changes_no_vector():
    spec = zr.get_spec("bge-m3")
    assert recipe_hash(replace(spec, languages=())) == recipe_hash(spec)
    with pytest.raises(zr.ConfigError, match="languages is 'zh'"):
        replace(spec, languages="zh")


def test_prompts_are_the_published_ones():
    bge, e5 = zr.get_spec("bge-large-zh"), zr.get_spec("e5-mistral")
    assert bge.format_query("茶") == "为这个句子生成表示以用于检索相关文章：茶"
    assert bge.format_query("茶", "") == "茶"
    assert bge.format_document("茶") == "茶"
    assert e5.format_query("茶", "Find it") == "Instruct: Find it\nQuery: 茶"
    assert e5.format_query("{text} {instruction}").endswith("Query: {text} {instruction}")
    assert zr.get_spec("jina-base-zh").format_query("茶") == "茶"
    assert zr.get_spec("builtin").format_document("茶") == "passage: 茶"
    assert zr.get_spec("rankinggpt").format_document("茶") == "Document: 茶 Query:"
    assert zr.get_spec("qwen3-embedding-8b").format_query("茶", "Find it") == "Instruct: Find it\nQuery:茶"


def parameters(model):
    return sum(parameter.numel() for parameter in model.parameters())


def test_parameter_counts_are_those_of_the_published_sizes():
    import torch
    from transformers import (
        BertConfig,
        BertModel,
        MistralConfig,
        MistralModel,
        Qwen2Config,
        Qwen2ForCausalLM,
        XLMRobertaConfig,
        XLMRobertaForSequenceClassification,
    )

    from zh_retrieval.models.jina_bert import JinaBertModel, jina_config

    jina = {
        "position_embedding_type": "alibi", "feed_forward_type": "geglu", "vocab_size": 61056, "hidden_size": 768,
        "num_hidden_layers": 12, "num_attention_heads": 12, "intermediate_size": 3072,
    }  # fmt: skip
    with torch.device("meta"):
        counts = {
            "bge-base-zh": parameters(BertModel(BertConfig(vocab_size=21128))),
            "bge-large-zh": parameters(
                BertModel(
                    BertConfig(
                        vocab_size=21128,
                        hidden_size=1024,
                        num_hidden_layers=24,
                        num_attention_heads=16,
                        intermediate_size=4096,
                    )
                )
            ),
            "jina-base-zh": parameters(JinaBertModel(jina_config(jina))) + 768 * 768 + 768,  # and an unused pooler
            "e5-mistral": parameters(MistralModel(MistralConfig())),
            "rankinggpt": parameters(
                Qwen2ForCausalLM(
                    Qwen2Config(
                        vocab_size=151936,
                        hidden_size=4096,
                        intermediate_size=11008,
                        num_hidden_layers=32,
                        num_attention_heads=32,
                        num_key_value_heads=32,
                    )
                )
            ),
            "bge-reranker-large": parameters(
                XLMRobertaForSequenceClassification(
                    XLMRobertaConfig(
                        vocab_size=250002,
                        hidden_size=1024,
                        num_hidden_layers=24,
                        num_attention_heads=16,
                        intermediate_size=4096,
                        max_position_embeddings=514,
                        type_vocab_size=1,
                        num_labels=1,
                    )
                )
            ),
        }
    assert counts == {name: zr.get_spec(name).parameters for name in counts}
