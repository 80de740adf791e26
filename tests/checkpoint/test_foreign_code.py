"""Code, templates and names in a folder are data: nothing of them is imported, run or followed."""

import json
import runpy
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import zh_retrieval as zr
from tests.golden import recipe, test_qwen1
from tests.tiny_models import tiny_bert, tiny_causal_lm, tiny_mistral, tiny_qwen1, tiny_xlmr_reranker

HERE = Path(__file__).parents[1] / "golden"
TEXTS = ["今天天气很好", "我们去公园散步"]
MODULES = ("modeling_foreign", "configuration_foreign", "tokenization_foreign")
POISON = "from pathlib import Path\nPath({marker!r}).write_text(__name__)\nclass Foreign: pass\n"


LAYOUTS = {
    "bert": ("bge-base-zh", tiny_bert),
    "mistral": ("e5-mistral", tiny_mistral),
    "jina": ("jina-base-zh", lambda folder: recipe.write(HERE / "jina", folder)),
    "xlm-roberta": ("bge-reranker-large", tiny_xlmr_reranker),
    "qwen-1": ("rankinggpt", test_qwen1.checkpoint),
    "qwen-1 in .bin shards": ("rankinggpt", tiny_qwen1),
    "llama": ("rankinggpt", tiny_causal_lm),
    "bloom": ("rankinggpt", lambda folder: tiny_causal_lm(folder, kind="bloom")),
}


def results(model, folder):
    load = zr.load_encoder if zr.get_spec(model).task == "embedding" else zr.load_reranker
    with load(model, path=folder, device="cpu", dtype="float32", private=True) as handle:
        return handle.encode_queries(TEXTS) if hasattr(handle, "encode_queries") else handle.score([TEXTS])


def edit(file, changes):
    stored = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
    file.write_text(json.dumps(stored | changes), encoding="utf-8")


def poison(folder, marker):
    """Put into a folder whatever any loader is known to import, run or follow."""
    for name in (*MODULES, "__init__", "handler", "pipeline", "custom_generate/generate"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / f"{name}.py").write_text(POISON.format(marker=str(marker)), encoding="utf-8")
    automatic = {
        "AutoConfig": "configuration_foreign.Foreign",
        "AutoModel": "modeling_foreign.Foreign",
        "AutoModelForCausalLM": "somebody/elsewhere--modeling_foreign.Foreign",
        "AutoModelForSequenceClassification": "modeling_foreign.Foreign",
        "AutoTokenizer": ["tokenization_foreign.Foreign", "tokenization_foreign.Foreign"],
    }
    pipelines = {"feature-extraction": {"impl": "pipeline.Foreign", "pt": ["AutoModel"]}}
    config = {"auto_map": automatic, "trust_remote_code": True, "custom_pipelines": pipelines}
    edit(folder / "config.json", config | {"attn_implementation": "somebody/kernel", "use_kernels": True})
    template = "{{ ''.__class__.__mro__[1].__subclasses__() }}{{ cycler.__init__.__globals__.os.system('false') }}"
    edit(
        folder / "tokenizer_config.json", {"auto_map": automatic, "chat_template": template, "trust_remote_code": True}
    )
    (folder / "chat_template.jinja").write_text(template, encoding="utf-8")
    edit(folder / "generation_config.json", {"custom_generate": "somebody/elsewhere", "trust_remote_code": True})
    listing = [{"idx": 0, "name": "0", "path": "", "type": "modeling_foreign.Transformer"}]
    (folder / "modules.json").write_text(json.dumps(listing), encoding="utf-8")


@pytest.mark.slow
@pytest.mark.parametrize("layout", LAYOUTS)
def test_code_beside_the_weights_never_runs_and_changes_nothing(layout, tmp_path):
    model, build = LAYOUTS[layout]
    folder, marker = build(tmp_path / "model"), tmp_path / "foreign code ran"
    expected = results(model, folder)
    poison(folder, marker)
    before, path = set(sys.modules), list(sys.path)
    np.testing.assert_allclose(results(model, folder), expected, atol=1e-6)  # an unknown key may choose the engine
    assert not marker.exists()
    assert not {name for name in set(sys.modules) - before if name.rpartition(".")[2] in MODULES}
    assert "transformers_modules" not in sys.modules
    assert sys.path == path
    assert not list(folder.rglob("__pycache__"))


def test_the_poison_of_these_tests_works_when_it_is_imported(tmp_path):
    marker = tmp_path / "foreign code ran"
    poison(tiny_bert(tmp_path / "model"), marker)
    runpy.run_path(str(tmp_path / "model" / "modeling_foreign.py"))
    assert marker.exists()


def test_the_files_of_the_config_are_not_followed(tmp_path):
    """config.json may name another weights file; the weights are those of the folder."""
    folder, other = tiny_bert(tmp_path / "model"), tiny_bert(tmp_path / "other", seed=1)
    expected = results("bge-base-zh", folder)
    edit(folder / "config.json", {"transformers_weights": "../other/model.safetensors", "_name_or_path": str(other)})
    np.testing.assert_array_equal(results("bge-base-zh", folder), expected)


def test_an_adapter_beside_the_weights_is_refused_whether_peft_is_installed_or_not(tmp_path):
    folder = tiny_bert(tmp_path / "model")
    adapter = {"peft_type": "LORA", "base_model_name_or_path": "somebody/elsewhere", "auto_mapping": {}}
    (folder / "adapter_config.json").write_text(json.dumps(adapter), encoding="utf-8")
    with pytest.raises(zr.CheckpointError, match=r"holds an adapter .* remove adapter_config\.json"):
        results("bge-base-zh", folder)


class Evil:
    """Ends the process when it is unpickled."""

    def __reduce__(self):
        return SystemExit, ("foreign code ran",)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip format", "old format"])
@pytest.mark.parametrize("shard", ["pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"])
def test_a_pickle_in_one_shard_does_not_run_and_is_named(tmp_path, shard, zipped):
    folder = tiny_qwen1(tmp_path / "model")
    stored = torch.load(folder / shard, weights_only=True)
    torch.save(stored | {"extra": Evil()}, folder / shard, _use_new_zipfile_serialization=zipped)
    with pytest.raises(zr.CheckpointError, match=f"{shard} holds more than tensors and was not run: .*SystemExit"):
        results("rankinggpt", folder)


@pytest.mark.parametrize("content", [[1, 2, 3], {"transformer.wte.weight": [1.0]}], ids=["a list", "lists"])
def test_a_bin_file_that_is_no_table_of_tensors_is_named(tmp_path, content):
    folder = tiny_qwen1(tmp_path / "model")
    torch.save(content, folder / "pytorch_model-00002-of-00002.bin")
    with pytest.raises(zr.CheckpointError, match=r"pytorch_model-00002-of-00002\.bin is no table of tensors"):
        results("rankinggpt", folder)


def test_a_pickle_called_safetensors_is_not_unpickled(tmp_path):
    folder = tiny_bert(tmp_path / "model")
    torch.save({"extra": Evil()}, folder / "model.safetensors")
    with pytest.raises(zr.CheckpointError, match=r"model\.safetensors cannot be read"):
        results("bge-base-zh", folder)


def test_safetensors_win_over_a_bin_file_beside_them(tmp_path):
    folder = tiny_bert(tmp_path / "model")
    expected = results("bge-base-zh", folder)
    torch.save({"extra": Evil()}, folder / "pytorch_model.bin")
    np.testing.assert_array_equal(results("bge-base-zh", folder), expected)


def test_links_are_followed_as_the_caches_of_hubs_need(tmp_path):
    """Hugging Face's cache is links to files elsewhere: a link in a folder is the word of whoever made the folder."""
    folder = tiny_bert(tmp_path / "model")
    expected = results("bge-base-zh", folder)
    (tmp_path / "blobs").mkdir()
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        shutil.move(folder / name, tmp_path / "blobs" / name)
        (folder / name).symlink_to(Path("..") / "blobs" / name)
    np.testing.assert_array_equal(results("bge-base-zh", folder), expected)


def test_a_link_to_nothing_is_named(tmp_path):
    folder = tiny_bert(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("nowhere")
    with pytest.raises(zr.CheckpointError, match="holds no weights"):
        results("bge-base-zh", folder)


@pytest.mark.parametrize("name", ["../other/model.safetensors", "/etc/passwd", "..\\other\\model.safetensors"])
def test_an_index_may_not_name_files_outside_the_folder(tmp_path, name):
    folder = tiny_mistral(tmp_path / "model")
    tiny_bert(tmp_path / "other")
    index = folder / "model.safetensors.index.json"
    stored = json.loads(index.read_text(encoding="utf-8"))
    stored["weight_map"]["norm.weight"] = name
    index.write_text(json.dumps(stored), encoding="utf-8")
    with pytest.raises(zr.CheckpointError, match=r"index\.json names .*, a file outside the folder"):
        results("e5-mistral", folder)
