"""A snapshot folder as a checked model: body, head and vocabulary. No code of the folder is ever imported."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from zh_retrieval.checkpoint import blocks, lora
from zh_retrieval.checkpoint.weight_files import IGNORED, check_files, find_not_finite, find_tensor, weight_files
from zh_retrieval.errors import CheckpointError
from zh_retrieval.layers import attention
from zh_retrieval.models import qwen1
from zh_retrieval.recipes.catalogue import ModelSpec
from zh_retrieval.tokenization.tokenizer import TextTokenizer, build
from zh_retrieval.tokenization.vocabulary import load_vocabulary

_REDIRECTIONS = {"transformers_weights"}  # names another weights file, anywhere
_QUIET = threading.Lock()


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder holds, loaded on the CPU or where `device_map` says.

    Attributes:
        body: Gives the last hidden states, (1, T, H).
        head: The classification or language-model head; None for embedders.
        tokenizer: Vocabulary and special tokens of the recipe.
        width: Hidden size H.
        length_limit: The most tokens of one sequence, special tokens included.
        position_offset: The first position id.
        packed: True if the body takes packed rows; False needs padded batches.
        softcap: `final_logit_softcapping` of a causal LM.
    """

    body: nn.Module
    head: nn.Module | None
    tokenizer: TextTokenizer
    width: int
    length_limit: int
    position_offset: int = 0
    packed: bool = True
    softcap: float | None = None


@dataclass(frozen=True, slots=True)
class Loading:
    """How the weights are to be loaded."""

    dtype: torch.dtype
    device_map: Any = None
    quantization_config: Any = None

    def arguments(self, implementation: str = attention.NAME) -> dict[str, Any]:
        """Return the keyword arguments of transformers' `from_pretrained`."""
        extra = {"device_map": self.device_map, "quantization_config": self.quantization_config}
        return {
            "dtype": self.dtype,
            "attn_implementation": implementation,
            "output_loading_info": True,
            "ignore_mismatched_sizes": True,  # reported, and refused by us with the names
            "local_files_only": True,
            **{name: value for name, value in extra.items() if value is not None},
        }


def load_checkpoint(
    folder: Path, spec: ModelSpec, loading: Loading, *, trusted_sizes: bool, adapter: Path | None = None
) -> Checkpoint:
    """Return the checked model of a folder.

    Args:
        folder: Holds config.json, weights and vocabulary.
        spec: The recipe.
        loading: dtype and placement.
        trusted_sizes: False demands the recipe's own dimension (a downloaded snapshot); True follows the folder.
        adapter: Folder of a LoRA adapter to merge into the weights.

    Raises:
        CheckpointError: A file is missing or broken, the architecture is another one, a weight is missing, left over,
            of the wrong shape or not finite, or the vocabulary does not know Chinese.
    """
    config = read_config(folder)
    _check_architecture(config, spec, folder)
    width = config.get("hidden_size")
    if not trusted_sizes and spec.dimension is not None and width != spec.dimension:
        raise CheckpointError(
            f"{folder} has hidden_size {width}, but {spec.name} has {spec.dimension}: wrong snapshot."
        )
    if (folder / lora.CONFIG).is_file():  # transformers would apply it, but only where peft is installed
        raise CheckpointError(f"{folder} holds an adapter beside the weights. Merge it, or remove adapter_config.json.")
    tokenizer = build(load_vocabulary(folder), spec, folder)
    files = weight_files(folder)
    attention.register()
    checkpoint = _LOADERS[spec.architecture](folder, config, loading, tokenizer)
    if adapter is not None:
        lora.merge(checkpoint.body, adapter, qwen1.qwen2_layers if qwen1.is_qwen1(config) else None)
    _check_vocabulary(checkpoint, folder)
    checkpoint.body.config.use_cache = False  # type: ignore[union-attr]  # nothing is generated: keys and values go
    for module in (checkpoint.body, checkpoint.head):
        if module is not None:
            _check_finite(module, files)
            module.eval().requires_grad_(False)
    return checkpoint


def read_config(folder: Path) -> dict[str, Any]:
    """Return config.json of a folder.

    Raises:
        CheckpointError: The file is missing or is not a JSON object.
    """
    file = folder / "config.json"
    if not file.is_file():
        raise CheckpointError(f"{folder} holds no config.json. Give the folder of a complete snapshot.")
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Fetch the file again.") from error
    if not isinstance(config, dict):
        raise CheckpointError(f"{file} holds {type(config).__name__}, expected a JSON object. Fetch the file again.")
    return {name: value for name, value in config.items() if name not in _REDIRECTIONS}


def _kind(config: dict[str, Any]) -> str:
    model_type = str(config.get("model_type", "unknown"))
    if model_type == "bert" and config.get("position_embedding_type") == "alibi":
        return "jina-bert"
    return model_type


def _check_architecture(config: dict[str, Any], spec: ModelSpec, folder: Path) -> None:
    found = _kind(config)
    if spec.architecture == "qwen":  # query likelihood works with every causal LM
        return
    if found != spec.architecture:
        raise CheckpointError(
            f"{folder} holds a {found!r} checkpoint, but {spec.name} is {spec.architecture!r}. "
            "Name the model whose recipe fits the folder."
        )


def _check_vocabulary(checkpoint: Checkpoint, folder: Path) -> None:
    embeddings = checkpoint.body.get_input_embeddings()  # type: ignore[operator]
    rows, words = embeddings.weight.shape[0], checkpoint.tokenizer.tokenizer.get_vocab_size()
    if words > rows:
        raise CheckpointError(
            f"{folder} has {words} words in its vocabulary but {rows} embedding rows: wrong vocabulary."
        )


def _check_finite(module: nn.Module, files: list[Path]) -> None:
    for name, parameter in module.named_parameters():
        if parameter.is_meta or not parameter.is_floating_point():
            continue
        if not bool(torch.isfinite(parameter.detach().sum(dtype=torch.float32))):
            found = find_not_finite(files)
            if found is None:
                raise CheckpointError(
                    f"{files[0].parent}: {name!r} leaves the range of {parameter.dtype}. Use another."
                )
            raise CheckpointError(
                f"{files[0].parent / found[0]}: tensor {found[1]!r} holds NaN or Inf. Fetch the file again."
            )


@contextmanager
def quiet() -> Iterator[None]:
    """Keep transformers from drawing a bar and printing a report; its settings are put back."""
    from transformers.utils import logging

    with _QUIET:
        bar, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
        logging.disable_progress_bar()
        logging.set_verbosity_error()
        try:
            yield
        finally:
            logging.set_verbosity(level)
            if bar:
                logging.enable_progress_bar()


def load_pretrained(cls: Any, folder: Path, config: Any, **arguments: Any) -> Any:
    """Return `cls` with the folder's weights; every weight is there, none is left over, all shapes fit.

    Raises:
        CheckpointError: Any of that is not so, or a file cannot be read.
    """
    state = arguments.pop("state_dict", None)
    source = None if state is not None else str(folder)
    try:
        with quiet():
            model, info = cls.from_pretrained(source, config=config, state_dict=state, **arguments)
    except (
        OSError,
        RuntimeError,
        ValueError,
        EOFError,
        LookupError,
        TypeError,
        UnpicklingError,
        SafetensorError,
    ) as error:
        check_files(weight_files(folder))  # names the file if one is to blame
        raise CheckpointError(f"The weights in {folder} cannot be loaded: {error}") from error
    check_loaded(info, folder)
    return model


def check_loaded(info: dict[str, Any], folder: Path) -> None:
    """Raise CheckpointError if transformers' loading report names missing, unexpected or misshapen tensors."""
    problems = {
        "missing": sorted(info["missing_keys"]),
        "wrong shape": sorted(name for name, *_ in info["mismatched_keys"]),
        "unexpected": sorted(k for k in info["unexpected_keys"] if not any(part in k for part in IGNORED)),
    }
    shapes = {name: f" {tuple(is_)} instead of {tuple(fits)}" for name, is_, fits in info["mismatched_keys"]}
    found = []
    for what, names in problems.items():
        if names:
            listed = ", ".join(name + shapes.get(name, "") for name in names[:5])
            found.append(f"{what}: {listed} ({len(names)}) in {find_tensor(weight_files(folder), names[0])}")
    if found or info.get("error_msgs"):
        raise CheckpointError(
            f"The weights in {folder} do not fit the model. {'; '.join([*found, *info.get('error_msgs', [])])}. "
            "Expected exactly the tensors that config.json describes."
        )


def _load_bert(folder: Path, config: dict[str, Any], loading: Loading, tokenizer: TextTokenizer) -> Checkpoint:
    from transformers import BertConfig, BertModel

    parsed = BertConfig.from_dict(config)
    state = blocks.state_dict(folder) if blocks.is_packed(folder) else None
    body = load_pretrained(BertModel, folder, parsed, add_pooling_layer=False, state_dict=state, **loading.arguments())
    return Checkpoint(body, None, tokenizer, parsed.hidden_size, parsed.max_position_embeddings)


def _load_xlm_roberta(folder: Path, config: dict[str, Any], loading: Loading, tokenizer: TextTokenizer) -> Checkpoint:
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    parsed = XLMRobertaConfig.from_dict(config)
    if parsed.num_labels != 1:
        raise CheckpointError(f"{folder} scores {parsed.num_labels} labels, expected the 1 of a reranker.")
    model = load_pretrained(XLMRobertaForSequenceClassification, folder, parsed, **loading.arguments())
    offset = int(config.get("pad_token_id", 1)) + 1
    limit = parsed.max_position_embeddings - offset
    return Checkpoint(model.roberta, model.classifier, tokenizer, parsed.hidden_size, limit, offset)


def _load_jina(folder: Path, config: dict[str, Any], loading: Loading, tokenizer: TextTokenizer) -> Checkpoint:
    from zh_retrieval.models.jina_bert import JinaBertModel, jina_config

    parsed = jina_config(config)
    body = load_pretrained(JinaBertModel, folder, parsed, **loading.arguments())
    return Checkpoint(body, None, tokenizer, parsed.hidden_size, parsed.max_position_embeddings)


def _load_mistral(folder: Path, config: dict[str, Any], loading: Loading, tokenizer: TextTokenizer) -> Checkpoint:
    from transformers import MistralConfig, MistralModel

    parsed = MistralConfig.from_dict(config)
    body = load_pretrained(MistralModel, folder, parsed, **loading.arguments())
    window = parsed.sliding_window or parsed.max_position_embeddings
    return Checkpoint(body, None, tokenizer, parsed.hidden_size, min(window, parsed.max_position_embeddings))


def _load_causal(folder: Path, config: dict[str, Any], loading: Loading, tokenizer: TextTokenizer) -> Checkpoint:
    from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

    if qwen1.is_qwen1(config):
        parsed: Any = qwen1.qwen2_config(config)
        cls: Any = qwen1.qwen1_class()
    else:
        if config.get("model_type") not in CONFIG_MAPPING:
            raise CheckpointError(f"{folder}: transformers has no model type {config.get('model_type')!r}.")
        parsed = CONFIG_MAPPING[config["model_type"]].from_dict(config)
        if type(parsed) not in MODEL_FOR_CAUSAL_LM_MAPPING:
            raise CheckpointError(f"{folder} holds {config['model_type']!r}, which is no causal language model.")
        cls = MODEL_FOR_CAUSAL_LM_MAPPING[type(parsed)]
    packed = bool(getattr(cls, "_supports_attention_backend", False))
    model = load_pretrained(cls, folder, parsed, **loading.arguments(attention.NAME if packed else "eager"))
    limit = getattr(parsed, "max_position_embeddings", None) or 8192
    softcap = getattr(parsed, "final_logit_softcapping", None)
    head = model.get_output_embeddings()
    return Checkpoint(model.base_model, head, tokenizer, parsed.hidden_size, limit, packed=packed, softcap=softcap)


_LOADERS: dict[str, Callable[[Path, dict[str, Any], Loading, TextTokenizer], Checkpoint]] = {
    "bert": _load_bert,
    "xlm-roberta": _load_xlm_roberta,
    "jina-bert": _load_jina,
    "mistral": _load_mistral,
    "qwen": _load_causal,
}
