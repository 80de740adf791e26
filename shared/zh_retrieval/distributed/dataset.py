"""A Ray dataset of texts to one with vectors, for people who do not know Ray."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from zh_retrieval.distributed.mapping import EmbedDocuments, OnError
from zh_retrieval.distributed.resources import nodes, plan_workers, require
from zh_retrieval.recipes.registry import get_spec
from zh_retrieval.recipes.spec import ModelSpec

_NEW_ARGUMENT = (2, 51)  # from here on `compute`, and `concurrency` is deprecated; before it was the reverse


def embed_dataset(
    dataset: Any,
    model: str | ModelSpec | None,
    *,
    sparse: str | ModelSpec | None = None,
    sparse_options: Mapping[str, Any] | None = None,
    text_column: str = "text",
    vector_column: str = "embedding",
    error_column: str = "error",
    on_error: OnError = "raise",
    workers: int | None = None,
    cpus: int | None = None,
    gpus: int | None = None,
    batch_size: int = 2048,
    **options: Any,
) -> Any:
    """Return the Ray dataset with document vectors as `EmbedDocuments` adds them, dense or sparse; all columns stay.

    Lazy, as all of Ray Data: the work is done when the result is read or written. Rows come in any order. A part of
    one CPU is left to Ray's readers and writers, which wait for ever where workers hold all of them.

    Args:
        dataset: A `ray.data.Dataset`.
        model: Name, alias or hub id, or a recipe; None for sparse vectors alone.
        sparse: "bm25-zh", "bge-m3", ...: sparse vectors; None leaves them out.
        sparse_options: Those of `load_sparse_encoder`.
        text_column: Where the texts are.
        vector_column: Where the dense vectors go.
        error_column: With on_error="null": what was wrong with a row.
        on_error: A bad text stops the job ("raise"), or is a null with its error ("null").
        workers: Processes that hold the weights; by default one for each GPU, or as many as the CPUs are for.
        cpus: CPUs, and so threads, of each of them.
        gpus: GPUs of each of them; by default one where the cluster has some.
        batch_size: Rows sorted by length together; it is no number of rows of a forward pass.
        options: Those of `load_encoder`.

    Raises:
        MissingExtraError: Ray is not installed.
        UnknownModelError, WrongTaskError, ConfigError: As `EmbedDocuments`.
    """
    ray, data = require("ray"), require("ray.data")
    arguments = {
        "model": model if model is None else get_spec(model), "sparse": sparse,
        "sparse_options": dict(sparse_options or {}), "text_column": text_column, "vector_column": vector_column,
        "error_column": error_column, "on_error": on_error, **options,
    }  # fmt: skip
    EmbedDocuments(**arguments)  # refuses here what every worker would refuse
    if not ray.is_initialized():
        ray.init()
    chosen = plan_workers(nodes(ray), workers, cpus, str(options.get("device", "auto")), gpus=gpus)
    many: dict[str, Any] = {"concurrency": chosen.count}
    if tuple(int(number) for number in ray.__version__.split(".")[:2]) >= _NEW_ARGUMENT:
        many = {"compute": data.ActorPoolStrategy(size=chosen.count)}
    if chosen.gpus:
        placed: dict[str, Any] = {"num_gpus": chosen.gpus}
    else:
        placed = {"num_cpus": round(max(0.1, chosen.cpus - 1.0 / chosen.count), 2)}
    return dataset.map_batches(
        EmbedDocuments, fn_constructor_kwargs={**arguments, "threads": chosen.cpus},
        batch_format="pyarrow", batch_size=batch_size, **many, **placed,
    )  # fmt: skip
