"""What a sentence-transformers or FlagEmbedding output folder says about itself, held against the recipe.

What a recipe leaves to its user, the instruction and max_length, follows the folder. What a recipe fixes must agree
with the folder: two answers to one question are an error that says both, never a silent choice.

Source of the file names and keys: the folders that sentence-transformers 2 to 6 writes.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from zh_retrieval.checkpoint.dense import Dense, read_dense
from zh_retrieval.checkpoint.dense import files_read as files_of_dense
from zh_retrieval.errors import CheckpointError
from zh_retrieval.hub.snapshot import is_safe
from zh_retrieval.recipes.spec import ModelSpec

_HARMLESS = ("Transformer", "Pooling", "Normalize", "Dropout")
_ORDER = ("Transformer", "Pooling", "Dense", "Normalize")  # Dropout does nothing, wherever it is
_POOLING_FLAGS = {  # before sentence-transformers 6: one flag for each mode
    "pooling_mode_cls_token": "cls",
    "pooling_mode_mean_tokens": "mean",
    "pooling_mode_max_tokens": "max",
    "pooling_mode_mean_sqrt_len_tokens": "mean_sqrt_len_tokens",
    "pooling_mode_weightedmean_tokens": "weightedmean",
    "pooling_mode_lasttoken": "lasttoken",
}
_POOLINGS = {"cls": "cls", "mean": "mean", "last": "lasttoken"}
_DOCUMENT_PROMPTS = ("document", "passage", "corpus")


def follow(folder: Path, spec: ModelSpec) -> tuple[Path, ModelSpec]:
    """Return the folder of the weights, and the recipe with the folder's own instruction and max_length.

    A folder without `modules.json` says nothing: it is returned as it is, with the recipe, unless that has a dense
    layer after pooling. Vectors have length 1 whether or not the folder normalizes.

    Raises:
        CheckpointError: The folder contradicts the recipe, or one of its files cannot be read.
    """
    modules = _modules(folder)
    if spec.dense and not any(kind == "Dense" for kind, _ in modules or ()):
        raise CheckpointError(
            f"{folder} has no modules.json with a dense layer, but the recipe of {spec.name} has one after pooling. "
            "Give the whole folder as it was published, 2_Dense included."
        )
    if modules is None:
        return folder, spec
    for kind, path in modules:
        if kind not in _HARMLESS and (kind != "Dense" or spec.pooling is None):
            raise CheckpointError(_conflict(folder, "a module", kind, spec, "none such"))
        if (path or kind == "Dense") and not is_safe(path):
            raise CheckpointError(f"{folder / 'modules.json'} points outside its folder: {path[:80]!r}.")
        if kind == "Pooling" and spec.pooling is not None:
            _check_pooling(folder / path, spec)
    _check_order(folder, [kind for kind, _ in modules], spec)
    weights = folder / next((path for kind, path in modules if kind == "Transformer"), "")
    return weights, _with_prompts(folder, _with_length(weights, spec))


def dense(folder: Path) -> Dense | None:
    """Return the dense layer after pooling of a folder that `follow` has nothing against; None if it has none.

    Raises:
        CheckpointError: It is none that is computed here, or its files are broken.
    """
    place = _dense_folder(folder)
    if place is None:
        return None
    config = _read(place / "config.json", dict)
    if config is None:
        raise CheckpointError(f"{place / 'config.json'} is missing, but modules.json names it. Fetch it again.")
    return read_dense(place, config)


def files_read(folder: Path) -> dict[str, Path]:
    """Return the files that `follow` reads of a folder, whether all exist or not, by their part in it."""
    modules = _modules(folder)
    if modules is None:
        return {}
    found = {name: folder / name for name in ("modules.json", "config_sentence_transformers.json")}
    for pooling in (path for kind, path in modules if kind == "Pooling"):
        found["pooling/config.json"] = folder / pooling / "config.json"
    if (place := _dense_folder(folder)) is not None:
        found |= {f"dense/{name}": file for name, file in files_of_dense(place).items()}
    weights = folder / next((path for kind, path in modules if kind == "Transformer"), "")
    return found | {name: weights / name for name in ("sentence_bert_config.json", "tokenizer_config.json")}


def _modules(folder: Path) -> list[tuple[str, str]] | None:
    """Return kind and folder of each module that modules.json lists; None if there is no such file."""
    listing = _read(folder / "modules.json", list)
    if listing is None:
        return None
    if not all(isinstance(entry, dict) for entry in listing):
        raise CheckpointError(f"{folder / 'modules.json'} lists what is no module. Correct it.")
    return [(str(entry.get("type", "")).rsplit(".", 1)[-1], str(entry.get("path", ""))) for entry in listing]


def _dense_folder(folder: Path) -> Path | None:
    places = [path for kind, path in _modules(folder) or () if kind == "Dense"]
    return folder / places[0] if places and is_safe(places[0]) else None


def _check_order(folder: Path, kinds: list[str], spec: ModelSpec) -> None:
    """Raise CheckpointError unless a dense layer is the only one, and right after pooling."""
    if "Dense" not in kinds:
        return
    places = [_ORDER.index(kind) for kind in kinds if kind in _ORDER]
    if places != sorted(places) or kinds.count("Dense") != 1 or "Pooling" not in kinds:
        given = ", ".join(kinds)[:200]
        raise CheckpointError(_conflict(folder, "modules", given, spec, "one Dense, right after Pooling"))


def _check_pooling(folder: Path, spec: ModelSpec) -> None:
    config = _read(folder / "config.json", dict) or {}
    flags = [mode for flag, mode in _POOLING_FLAGS.items() if config.get(flag)]
    mode = config.get("pooling_mode") or "+".join(flags) or "mean"
    if mode != _POOLINGS[str(spec.pooling)]:
        raise CheckpointError(_conflict(folder, "pooling", mode, spec, _POOLINGS[str(spec.pooling)]))
    if not config.get("include_prompt", True):
        raise CheckpointError(_conflict(folder, "include_prompt", "false", spec, "prompts that are pooled too"))


def _with_length(folder: Path, spec: ModelSpec) -> ModelSpec:
    length = (_read(folder / "sentence_bert_config.json", dict) or {}).get("max_seq_length")
    if length is None:  # sentence-transformers 6 leaves it to the tokenizer, where a huge number means none
        length = (_read(folder / "tokenizer_config.json", dict) or {}).get("model_max_length")
        if not isinstance(length, int) or length > spec.length_limit:
            return spec
    if not isinstance(length, int) or not 0 < length <= spec.length_limit:
        raise CheckpointError(_conflict(folder, "max_seq_length", length, spec, f"at most {spec.length_limit}"))
    return replace(spec, max_length=length)


def _with_prompts(folder: Path, spec: ModelSpec) -> ModelSpec:
    settings = _read(folder / "config_sentence_transformers.json", dict) or {}
    prompts = settings.get("prompts") or {}
    named = settings.get("default_prompt_name")
    default = prompts.get(named) or None  # of every text that has none of its own, documents too
    document = next((prompts[name] for name in _DOCUMENT_PROMPTS if prompts.get(name)), default)
    ours = spec.document_template.removesuffix("{text}")
    if document is not None and document != ours:
        what = "document prompt" + (f" (by default_prompt_name {named!r})" if document is default else "")
        raise CheckpointError(_conflict(folder, what, repr(document), spec, repr(ours)))
    query = prompts.get("query") or default
    if not query:  # sentence-transformers writes "" where nobody set a prompt
        return spec
    head, _, tail = spec.query_template.removesuffix("{text}").partition("{instruction}")
    if not spec.takes_instruction:
        if query != head:
            raise CheckpointError(_conflict(folder, "query prompt", repr(query), spec, repr(head)))
        return spec
    if not (query.startswith(head) and query.endswith(tail) and len(query) > len(head) + len(tail)):
        form = repr(f"{head}...{tail}")
        raise CheckpointError(_conflict(folder, "query prompt", repr(query), spec, f"one of the form {form}"))
    return replace(spec, instruction=query[len(head) : len(query) - len(tail)])


def _conflict(folder: Path, what: str, theirs: object, spec: ModelSpec, ours: object) -> str:
    return (
        f"{folder} says {what}: {theirs}, but the recipe of {spec.name} says: {ours}. Name the model that the folder "
        "was trained from, or correct the file that is wrong."
    )


def _read(file: Path, kind: type) -> Any:
    """Return the JSON value of a file; None if there is no such file."""
    if not file.is_file():
        return None
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise CheckpointError(f"{file} is not valid JSON: {error}. Correct it.") from error
    if not isinstance(value, kind):
        raise CheckpointError(f"{file} holds {type(value).__name__}, expected {kind.__name__}. Correct it.")
    return value
