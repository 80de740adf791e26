"""Broken weight files: each is a CheckpointError that names the file, and the tensor where there is one."""

import json
import struct

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import zh_retrieval as zr
from tests.tiny_models import BUILTIN, tiny_bert, tiny_mistral, tiny_qwen1, unigram_files
from zh_retrieval.checkpoint.weight_files import count_parameters, weight_files
from zh_retrieval.hub.snapshot import Manifest, RemoteFile, sha256, verify

FIRST, SECOND = "pytorch_model-00001-of-00002.bin", "pytorch_model-00002-of-00002.bin"


def load(folder, model, **options):
    opener = zr.load_encoder if zr.get_spec(model).task == "embedding" else zr.load_reranker
    with opener(model, path=folder, device="cpu", **({"dtype": "float32"} | options)) as handle:
        return handle.encode_documents(["今天天气"]) if hasattr(handle, "encode_documents") else None


def refuse(folder, match, model="bge-base-zh", **options):
    with pytest.raises(zr.CheckpointError, match=match):
        load(folder, model, **options)


@pytest.fixture
def bert(tmp_path):
    return tiny_bert(tmp_path / "bert")


@pytest.fixture
def mistral(tmp_path):
    """Return a folder of several safetensors shards with an index."""
    return tiny_mistral(tmp_path / "mistral")


@pytest.fixture
def qwen(tmp_path):
    return tiny_qwen1(tmp_path / "qwen")


def shards(folder):
    return sorted(folder.glob("model-*.safetensors"))


def holder(folder, tensor):
    index = json.loads((folder / "model.safetensors.index.json").read_text(encoding="utf-8"))
    return folder / index["weight_map"][tensor]


def change(file, edit):
    weights = load_file(file) if file.suffix == ".safetensors" else torch.load(file, weights_only=True)
    edit(weights)
    save = save_file if file.suffix == ".safetensors" else torch.save
    save(weights, file, **({"metadata": {"format": "pt"}} if file.suffix == ".safetensors" else {}))


def with_header(file, header):
    """Replace the header of a safetensors file by other bytes."""
    content = file.read_bytes()
    (size,) = struct.unpack("<Q", content[:8])
    file.write_bytes(struct.pack("<Q", len(header)) + header + content[8 + size :])


@pytest.mark.parametrize(
    "damage",
    [
        lambda file: file.write_bytes(b""),
        lambda file: file.write_bytes(file.read_bytes()[:5]),
        lambda file: file.write_bytes(file.read_bytes()[:100]),
        lambda file: file.write_bytes(file.read_bytes()[:-1]),
        lambda file: file.write_bytes(file.read_bytes() + b"\0"),
        lambda file: file.write_bytes(struct.pack("<Q", 1 << 60) + file.read_bytes()[8:]),
        lambda file: with_header(file, b"not json"),
        lambda file: with_header(file, b'{"norm.weight": {"dtype": "F99", "shape": [64], "data_offsets": [0, 256]}}'),
        lambda file: with_header(file, b'{"norm.weight": {"dtype": "F32", "shape": [-1], "data_offsets": [0, 256]}}'),
        lambda file: with_header(file, b'{"norm.weight": {"dtype": "F32", "shape": [64], "data_offsets": [8, 264]}}'),
        lambda file: file.write_bytes(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
    ],
    ids=[
        "empty", "cut in the length", "cut in the header", "cut by one byte", "one byte more", "endless header",
        "no JSON", "unknown dtype", "negative shape", "gap in the data", "git-lfs pointer",
    ],
)  # fmt: skip
@pytest.mark.parametrize("place", [0, -1], ids=["first shard", "last shard"])
def test_a_broken_safetensors_shard_is_named(mistral, damage, place):
    file = shards(mistral)[place]
    damage(file)
    refuse(mistral, f"{file.name} cannot be read: ", "e5-mistral")


@pytest.mark.parametrize("place", [0, -1])
def test_a_missing_safetensors_shard_is_named(mistral, place):
    file = shards(mistral)[place]
    file.unlink()
    refuse(mistral, rf"{file.name} is missing, but model\.safetensors\.index\.json names it", "e5-mistral")


@pytest.mark.parametrize(
    "content", ["", "[]", "{}", '{"weight_map": 3}', '{"weight_map": ["x"]}', '{"weight_map": null}']
)
def test_a_broken_index_is_named(mistral, content):
    (mistral / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    refuse(mistral, r"model\.safetensors\.index\.json is no index of shards", "e5-mistral")


def test_a_tensor_that_the_index_promises_and_no_shard_holds_is_named_with_its_shard(mistral):
    file = holder(mistral, "layers.1.mlp.up_proj.weight")
    change(file, lambda weights: weights.pop("layers.1.mlp.up_proj.weight"))
    match = (
        rf"missing: layers\.1\.mlp\.up_proj\.weight \(1\) in {file.name}, where model\.safetensors\.index\.json puts"
    )
    refuse(mistral, match, "e5-mistral")


def test_a_tensor_too_many_is_named_with_its_shard(mistral):
    file = shards(mistral)[-1]
    change(file, lambda weights: weights.update({"layers.9.mlp.up_proj.weight": torch.zeros(2)}))
    refuse(mistral, rf"unexpected: layers\.9\.mlp\.up_proj\.weight \(1\) in {file.name}", "e5-mistral")


def test_a_tensor_of_the_wrong_shape_is_named_with_both_shapes_and_its_shard(mistral):
    file = holder(mistral, "layers.1.mlp.up_proj.weight")
    change(file, lambda weights: weights.update({"layers.1.mlp.up_proj.weight": torch.zeros(3, 64)}))
    match = rf"wrong shape: layers\.1\.mlp\.up_proj\.weight \(3, 64\) instead of \(128, 64\) \(1\) in {file.name}"
    refuse(mistral, match, "e5-mistral")


@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
def test_a_tensor_that_is_not_finite_is_named_with_its_shard(mistral, value):
    file = holder(mistral, "layers.2.self_attn.q_proj.weight")
    change(file, lambda weights: weights["layers.2.self_attn.q_proj.weight"][1].fill_(value))
    refuse(mistral, rf"{file.name}: tensor 'layers\.2\.self_attn\.q_proj\.weight' holds NaN or Inf", "e5-mistral")


def test_weights_beyond_the_range_of_the_dtype_are_not_called_broken(bert):
    change(bert / "model.safetensors", lambda weights: weights["encoder.layer.0.output.dense.bias"].fill_(1e6))
    refuse(bert, r"layer\.0\.output\.dense\.bias' leaves the range of torch\.float16", dtype="float16")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("shard", [FIRST, SECOND])
def test_a_bin_tensor_that_is_not_finite_is_named_as_the_file_names_it(qwen, shard, value):
    name = next(name for name in torch.load(qwen / shard, weights_only=True) if name.endswith("c_attn.bias"))
    change(qwen / shard, lambda weights: weights[name][5:6].fill_(value))
    refuse(qwen, f"{shard}: tensor '{name}' holds NaN or Inf", "rankinggpt")


@pytest.mark.parametrize("kept", [0, 100, 0.5, -1])
@pytest.mark.parametrize("shard", [FIRST, SECOND])
def test_a_cut_bin_shard_is_named(qwen, shard, kept):
    content = (qwen / shard).read_bytes()
    (qwen / shard).write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    refuse(qwen, rf"{shard} (cannot be read|holds more than tensors)", "rankinggpt")


def test_a_missing_bin_shard_is_named(qwen):
    (qwen / SECOND).unlink()
    refuse(qwen, rf"{SECOND} is missing, but pytorch_model\.bin\.index\.json names it", "rankinggpt")


def test_a_qwen_tensor_of_the_wrong_shape_is_an_error(qwen):
    name = next(name for name in torch.load(qwen / FIRST, weights_only=True) if name.endswith("mlp.w1.weight"))
    change(qwen / FIRST, lambda weights: weights.update({name: weights[name][:, :-1].clone()}))
    refuse(qwen, r"wrong shape: layers\.\d\.mlp\.up_proj\.weight .* instead of ", "rankinggpt")


def test_a_qwen_tensor_that_cannot_be_parted_is_an_error(qwen):
    name = next(name for name in torch.load(qwen / FIRST, weights_only=True) if name.endswith("c_attn.weight"))
    change(qwen / FIRST, lambda weights: weights.update({name: weights[name][:-1].clone()}))
    refuse(qwen, "(q|k|v)_proj", "rankinggpt")


def test_a_vocabulary_of_another_model_is_an_error(bert):
    (bert / "vocab.txt").unlink()
    unigram_files(bert)
    refuse(bert, r"lacks '\[CLS\]'")


@pytest.mark.parametrize("content", ["", "{}", "[1]", '{"model": {"type": "BPE"}}', "\0\0"])
def test_a_broken_vocabulary_is_named(bert, content):
    (bert / "tokenizer.json").write_text(content, encoding="utf-8")
    refuse(bert, r"tokenizer\.json cannot be read")


def test_flipped_bytes_are_found_by_verify_though_not_by_loading(bert):
    """A safetensors file has no checksum: finite wrong numbers load; the manifest of a download knows better."""
    file, name = bert / "model.safetensors", "encoder.layer.1.output.dense.weight"
    expected = load(bert, "bge-base-zh")
    files = [RemoteFile(each.name, each.stat().st_size, sha256(each)) for each in sorted(bert.iterdir())]
    Manifest("modelscope", "somebody/bert", "master", tuple(files)).write(bert)
    assert verify(bert) == []
    content = bytearray(file.read_bytes())
    (size,) = struct.unpack("<Q", content[:8])
    start = 8 + size + json.loads(content[8 : 8 + size])[name]["data_offsets"][0]
    content[start + 3] ^= 0x80  # the sign of the first number
    file.write_bytes(content)
    found = load(bert, "bge-base-zh", private=True)
    assert np.isfinite(found).all()
    assert (found != expected).any()
    assert verify(bert) == ["model.safetensors: sha256 differs from the hub's"]
    content[start + 2 : start + 4] = b"\xc0\x7f"
    file.write_bytes(content)
    refuse(bert, rf"model\.safetensors: tensor '{name}' holds NaN or Inf", private=True)


@pytest.fixture
def packed(tmp_path):
    """Return a copy of the built-in model, whose weights are 4-bit blocks."""
    folder = tmp_path / "packed"
    folder.mkdir()
    for file in BUILTIN.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_broken_weights_in_blocks_are_named(packed):
    file = packed / "model.q4.safetensors"
    weight = "encoder.layer.3.output.dense.weight"
    change(file, lambda weights: weights.pop(f"{weight}.scale"))
    refuse(packed, rf"model\.q4\.safetensors: '{weight}' lacks a scale", "e5-small-zh")
    change(file, lambda weights: weights.pop(f"{weight}.q4"))
    refuse(packed, rf"missing: {weight} \(1\) in model\.q4\.safetensors", "e5-small-zh")
    file.write_bytes(file.read_bytes()[:-7])
    refuse(packed, r"model\.q4\.safetensors cannot be read", "e5-small-zh")


def test_scales_that_are_not_finite_are_named(packed):
    scale = "encoder.layer.3.output.dense.weight.scale"
    change(packed / "model.q4.safetensors", lambda weights: weights[scale][0, 0].fill_(float("nan")))
    refuse(packed, rf"model\.q4\.safetensors: tensor '{scale}' holds NaN or Inf", "e5-small-zh")


def test_parameters_are_counted_in_every_format(bert, mistral, qwen, packed):
    assert count_parameters(weight_files(packed)) == zr.get_spec("e5-small-zh").parameters
    for folder in (bert, mistral, qwen):
        files = weight_files(folder)
        loaded = [load_file(f) if f.suffix == ".safetensors" else torch.load(f, weights_only=True) for f in files]
        assert count_parameters(files) == sum(tensor.numel() for part in loaded for tensor in part.values())
