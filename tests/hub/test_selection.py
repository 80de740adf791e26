"""Which files of a published listing a model needs."""

import pytest

from zh_retrieval.hub.snapshot import RemoteFile, select

BGE_M3 = (
    "1_Pooling/config.json", ".gitattributes", "README.md", "colbert_linear.pt", "config.json",
    "config_sentence_transformers.json", "imgs/bm25.jpg", "long.jpg", "modules.json", "onnx/config.json",
    "onnx/model.onnx", "onnx/model.onnx_data", "onnx/sentencepiece.bpe.model", "onnx/tokenizer.json",
    "pytorch_model.bin", "sentence_bert_config.json", "sentencepiece.bpe.model", "sparse_linear.pt",
    "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
)  # fmt: skip
QWEN3 = (
    "1_Pooling/config.json", "config.json", "config_sentence_transformers.json", "generation_config.json", "merges.txt",
    "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors.index.json",
    "modules.json", "tokenizer.json", "tokenizer_config.json", "vocab.json",
)  # fmt: skip


@pytest.mark.parametrize(
    ("listing", "left"),
    [
        (
            BGE_M3,
            {".gitattributes", "README.md", "colbert_linear.pt", "imgs/bm25.jpg", "long.jpg"}
            | {name for name in BGE_M3 if name.startswith("onnx/")},
        ),
        (QWEN3, {"merges.txt", "vocab.json"}),
    ],
    ids=["bge-m3", "qwen3"],
)
def test_only_what_the_recipe_reads_is_taken(listing, left):
    chosen = [file.path for file in select(RemoteFile(path, 1) for path in listing)]
    assert sorted(chosen) == sorted(set(listing) - left)
