"""Arguments that other packages take, and what to write here instead.

Names: langchain-huggingface, langchain-community, llama-index's Hugging Face classes, sentence-transformers,
FlagEmbedding, and the clients of OpenAI, TEI and Xinference.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any

_MODEL = "write model='NAME', and path= for a folder of weights"
_LENGTH_ONE = "vectors have length 1 always: leave it out"
_DOCUMENTS = "documents get the model's own prompt: leave it out, or register a recipe with another"
_QUERIES = "queries get the model's own prompt: leave it out, or write query_instruction="
_RECIPE = "the model's recipe says it: leave it out"
_BATCHES = "batches are formed by tokens: leave it out, or write max_batch_tokens="
_PROCESSES = "threads share one model: leave it out; `zh-retrieval embed --ray local` uses processes"
_TOKEN = "the hubs' own variables (HF_TOKEN, MODELSCOPE_API_TOKEN) are read: leave it out"
_ADDRESS = "write base_url= with the server's address, and dialect="
_DTYPE = "write dtype='float16', 'bfloat16' or 'float32'"

INSTEAD: Mapping[str, str] = {
    **dict.fromkeys(("model_id", "model_name_or_path", "repo_id", "model_uid", "checkpoint"), _MODEL),
    **dict.fromkeys(("model_path", "model_dir"), "write path=, and model='NAME' for the recipe"),
    **dict.fromkeys(("cache_folder", "cache"), "write cache_dir="),
    **dict.fromkeys(("multi_process", "parallel_process", "target_devices", "pool", "devices"), _PROCESSES),
    **dict.fromkeys(("normalize", "normalize_embeddings"), _LENGTH_ONE),
    **dict.fromkeys(
        ("text_instruction", "embed_instruction", "passage_instruction", "document_instruction"), _DOCUMENTS
    ),
    **dict.fromkeys(("query_prompt_name", "prompt_name", "prompt", "prompts", "default_prompt_name"), _QUERIES),
    **dict.fromkeys(("query_instruction_for_retrieval", "query_prompt"), "write query_instruction="),
    **dict.fromkeys(("query_instruction", "query_instruction_for_rerank"), "a reranker's is instruction="),
    **dict.fromkeys(("pooling", "pooling_method", "pooling_mode", "add_eos_token", "padding_side"), _RECIPE),
    **dict.fromkeys(("tokenizer", "tokenizer_name", "tokenizer_kwargs", "processor_kwargs", "config_kwargs"), _RECIPE),
    **dict.fromkeys(("batch_size", "chunk_size"), _BATCHES),
    "embed_batch_size": "it is LlamaIndex's; here " + _BATCHES,
    **dict.fromkeys(("max_seq_length", "max_tokens", "query_max_length", "passage_max_length"), "write max_length="),
    **dict.fromkeys(("truncate_dim", "dimension", "embed_dim", "output_dimensionality"), "write dimensions="),
    **dict.fromkeys(("torch_dtype", "use_fp16", "use_bf16", "precision"), _DTYPE),
    **dict.fromkeys(("load_in_8bit", "load_in_4bit"), "write quantization='int8' or 'int4'"),
    **dict.fromkeys(("show_progress_bar", "progress"), "write show_progress="),
    **dict.fromkeys(("token", "use_auth_token", "hf_token", "huggingfacehub_api_token"), _TOKEN),
    **dict.fromkeys(("endpoint", "endpoint_url", "url", "server_url", "api_base", "openai_api_base"), _ADDRESS),
    **dict.fromkeys(("openai_api_key", "auth_token", "api_token"), "write api_key="),
    **dict.fromkeys(("request_timeout",), "write timeout="),
    **dict.fromkeys(("top_k", "k", "n"), "write top_n="),
    "backend": "the engine follows the device: leave it out",
}
"""Name of an argument -> what to do instead."""
_BAGS = ("model_kwargs", "encode_kwargs", "query_encode_kwargs", "cross_encoder_kwargs", "tokenizer_kwargs")


def advice(given: Mapping[str, Any], known: Collection[str]) -> str:
    """Return a line on each argument that there is not; no value is in it.

    Args:
        given: The unknown arguments.
        known: The names that there are.
    """
    lines = [(name, _instead(name, value, known)) for name, value in given.items()]
    return " ".join(said if said.endswith("?") else f"{name}: {said}." for name, said in lines)


def _instead(name: str, value: Any, known: Collection[str]) -> str:
    if name in _BAGS:
        inner = value if isinstance(value, Mapping) else {}
        parts = [f"for {key!r} {_of_bag(str(key), known)}" for key in inner]
        return "; ".join(parts) or "leave it out: what it may hold has arguments of its own, such as device= and dtype="
    if elsewhere := _elsewhere(name):
        return elsewhere
    if name in known:
        return "it is given twice"
    close = difflib.get_close_matches(name[:80], known, n=1)
    return f"Did you mean {close[0]}=?" if close else "there is no such argument"


def _of_bag(key: str, known: Collection[str]) -> str:
    if key in known:
        return f"write {key}= beside it"
    return _elsewhere(key) or "there is nothing here: leave it out"


def _elsewhere(name: str) -> str | None:
    return "no remote code is run: leave it out" if name.startswith("trust_remote") else INSTEAD.get(name)
