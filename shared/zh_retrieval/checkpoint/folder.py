"""What a snapshot folder says before any weight is read, all of it checked. Needs no torch."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from zh_retrieval.checkpoint import lora
from zh_retrieval.checkpoint.dense import Dense
from zh_retrieval.checkpoint.weight_files import weight_files
from zh_retrieval.errors import CheckpointError
from zh_retrieval.models import kind, reads
from zh_retrieval.recipes.rules import ARCHITECTURES
from zh_retrieval.recipes.spec import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer, build
from zh_retrieval.tokenization.vocabulary import load_vocabulary

_REDIRECTIONS = {"transformers_weights"}  # names another weights file, anywhere


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder that holds a model of the right architecture.

    Attributes:
        path: Where it is.
        config: What config.json says.
        tokenizer: Vocabulary and special tokens.
        files: The weight files; their headers can be read.
        dense: The layer after pooling; None if there is none.
    """

    path: Path
    config: dict[str, Any]
    tokenizer: TextTokenizer
    files: list[Path]
    dense: Dense | None = None

    def vector(self, hidden: int) -> int:
        """Return the length of an embedder's vector before it is cut, for the size of its hidden states."""
        return hidden if self.dense is None else self.dense.outputs

    def check_vocabulary(self, rows: int) -> None:
        """Raise CheckpointError if there are more words than rows of embeddings."""
        words = self.tokenizer.tokenizer.get_vocab_size()
        if words > rows:
            raise CheckpointError(
                f"{self.path} has {words} words in its vocabulary but {rows} embedding rows: wrong vocabulary."
            )


def open_folder(path: Path, spec: ModelSpec, *, trusted_sizes: bool, dense: Dense | None = None) -> Folder:
    """Return what a folder says.

    Args:
        path: Holds config.json, weights and vocabulary.
        spec: The recipe.
        trusted_sizes: False demands the recipe's own dimension (a downloaded snapshot); True follows the folder.
        dense: The layer after pooling.

    Raises:
        CheckpointError: A file is missing or broken, the architecture is another one, or the vocabulary does not know
            Chinese.
    """
    config = read_config(path)
    if not reads(spec.architecture, config):
        raise CheckpointError(
            f"{path} holds a {kind(config)!r} checkpoint, but {spec.name} is {spec.architecture!r}. "
            "Name the model whose recipe fits the folder."
        )
    if spec.pooling is not None and ARCHITECTURES[spec.architecture].sparse_layer:
        _refuse_cross_encoder(path, config, spec)
    width = config.get("hidden_size")
    if dense is not None and dense.inputs != width:
        raise CheckpointError(f"The dense layer of {path} takes {dense.inputs} numbers, but hidden_size is {width}.")
    vector = width if dense is None else dense.outputs
    if not trusted_sizes and spec.dimension is not None and vector != spec.dimension:
        what = "hidden_size" if dense is None else "a dense layer of"
        raise CheckpointError(f"{path} has {what} {vector}, but {spec.name} has {spec.dimension}: wrong snapshot.")
    if (path / lora.CONFIG).is_file():  # transformers would apply it, but only where peft is installed
        raise CheckpointError(f"{path} holds an adapter beside the weights. Merge it, or remove adapter_config.json.")
    tokenizer = build(load_vocabulary(path), spec, path, types=config.get("type_vocab_size", 2))
    return Folder(path, config, tokenizer, weight_files(path), dense)


def _refuse_cross_encoder(path: Path, config: dict[str, Any], spec: ModelSpec) -> None:
    """Raise CheckpointError if the layer that could be a sparse side is the head of a cross-encoder."""
    named = [str(name) for name in config.get("architectures") or ()]
    if any("SequenceClassification" in name for name in named):
        raise CheckpointError(
            f"{path} holds a {named[0]!r}, which gives scores, but {spec.name} gives vectors. Name a reranker."
        )


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a folder.

    Raises:
        CheckpointError: The file is missing or is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no config.json. Give the folder of a complete snapshot.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"), object_hook=_special_float)
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Fetch the file again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds {type(config).__name__}, expected a JSON object. Fetch the file again.")
    return {name: value for name, value in config.items() if name not in _REDIRECTIONS}


def _special_float(read: dict[str, Any]) -> Any:
    """Return the number that transformers writes as {"__float__": "Infinity"}, or what was read."""
    return float(read["__float__"]) if list(read) == ["__float__"] else read
