"""What the framework adapters share: the load options as pydantic fields, and weights that load on first use.

Needs pydantic, which both frameworks bring.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from pydantic import BaseModel, Field, PrivateAttr
from typing_extensions import Self

from zh_retrieval.base import Model
from zh_retrieval.engine.hardware import resolve_device, resolve_dtype
from zh_retrieval.errors import InputError
from zh_retrieval.options import Dtype, LoadOptions, Overflow, Quantization
from zh_retrieval.recipes.registry import check_task, get_spec
from zh_retrieval.recipes.spec import ModelSpec, Task

_CONVERTED_AT_ONCE = 50_000  # numbers: about 1 ms

HandleT = TypeVar("HandleT", bound=Model)


class LoadFields(BaseModel):
    """The options of `zh_retrieval.options.LoadOptions` as fields.

    What changes no result (device, caches, batch size) is left out of dumps, so that caches keyed by a dump hold.
    """

    model_name: str = Field(alias="model", description="Name, alias or hub id of the model.")
    path: str | Path | None = Field(default=None, description="Folder of weights; None downloads.")
    device: str = Field(default="auto", exclude=True, description="auto, cpu, cuda, cuda:N or mps.")
    dtype: Dtype = Field(default="auto", description="auto, float32, bfloat16 or float16.")
    quantization: Quantization | None = Field(default=None, description="int8 (CPU) or None.")
    max_length: int | None = Field(default=None, description="Tokens per sequence.")
    revision: str | None = Field(default=None, description="Hub revision.")
    cache_dir: str | Path | None = Field(default=None, exclude=True, description="Folder of snapshots.")
    local_files_only: bool = Field(default=False, exclude=True, description="Never use the network.")
    overflow: Overflow = Field(default="truncate", description="truncate, error, or window for rerankers.")
    max_batch_tokens: int | None = Field(default=None, exclude=True, description="Tokens of one forward pass.")
    private: bool = Field(default=False, exclude=True, description="Do not share the weights.")
    device_map: Any = Field(default=None, exclude=True, description="Passed to transformers (large models).")
    quantization_config: Any = Field(default=None, description="Passed to transformers (large models).")
    compile: bool = Field(default=False, exclude=True, description="Use torch.compile (CUDA).")
    show_progress: bool = Field(default=False, exclude=True, description="Show a bar for downloads and long calls.")

    def __init__(self, model: str | None = None, **fields: Any) -> None:
        """Take the model by position, or as `model` or `model_name`."""
        super().__init__(**({"model": model} if model is not None else {}), **fields)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field; one that says how to load takes effect at the next call."""
        super().__setattr__(name, value)
        if name in LoadFields.model_fields:
            for held in (self.__pydantic_private__ or {}).values():
                if isinstance(held, Lazy):
                    held.drop()

    def __copy__(self) -> Self:
        """Return a copy that loads by its own options: `model_copy(update=...)` may change them."""
        copied = super().__copy__()
        private = copied.__pydantic_private__ or {}
        private.update({name: type(value)() for name, value in private.items() if isinstance(value, Lazy)})
        return copied

    @property
    def spec(self) -> ModelSpec:
        """Return the recipe of the model."""
        return get_spec(self.model_name)

    def load_options(self) -> dict[str, Any]:
        """Return the keyword arguments of `load_encoder` or `load_reranker`."""
        return {option.name: getattr(self, option.name) for option in fields(LoadOptions)}

    def check(self, task: Task) -> None:
        """Raise UnknownModelError, WrongTaskError or ConfigError now rather than at the first call."""
        check_task(self.spec, task)
        LoadOptions(**self.load_options()).check(task)

    def identity(self) -> dict[str, Any]:
        """Return everything that changes a result of this model, for cache keys, with what "auto" means here."""
        options = LoadOptions(**self.load_options()).with_environment()
        names = ("revision", "path", "dtype", "quantization", "max_length", "overflow", "quantization_config")
        meant = {"dtype": str(resolve_dtype(options.dtype, resolve_device(options.device))).removeprefix("torch.")}
        return {"model": self.spec.name} | {name: meant.get(name, getattr(options, name)) for name in names}


async def as_lists(vectors: np.ndarray) -> list[list[float]]:
    """Return the rows as lists of Python floats, made a few at a time so that the event loop goes on meanwhile.

    Not in a thread: that would hold the interpreter's lock, and the loop waits 5 ms whenever it has to ask for it.
    """
    step = max(1, _CONVERTED_AT_ONCE // max(1, vectors.shape[1]))
    lists: list[list[float]] = vectors[:step].tolist()
    for low in range(step, len(vectors), step):
        await asyncio.sleep(0)
        lists += vectors[low : low + step].tolist()
    return lists


class Lazy(Generic[HandleT]):
    """A handle that is loaded on first use; copies and pickles start empty, so weights never travel."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: HandleT | None = None

    def get(self, load: Callable[[], HandleT]) -> HandleT:
        """Return the handle; the first caller loads it, others wait. One that `close_all` closed is loaded again."""
        with self._lock:
            if self._handle is None or self._handle.closed:
                self._handle = load()
            return self._handle

    async def aget(self, load: Callable[[], HandleT]) -> HandleT:
        """Return the handle; loading happens in a thread, so that the event loop goes on."""
        handle = self._handle
        return handle if handle is not None and not handle.closed else await asyncio.to_thread(self.get, load)

    def drop(self) -> None:
        """Close the handle; the next `get` loads again."""
        with self._lock:
            if self._handle is not None:
                self._handle.close()
            self._handle = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Lazy)

    def __hash__(self) -> int:
        return hash(Lazy)

    def __reduce__(self) -> tuple[type[Lazy[HandleT]], tuple[()]]:
        return type(self), ()


def check_items(items: object, kind: type, what: str) -> None:
    """Raise InputError, naming the index, unless `items` is a list (or another sequence) of `kind`."""
    if isinstance(items, (str, bytes)) or not isinstance(items, Sequence):
        raise InputError(f"{what} is {type(items).__name__}, expected a list of {kind.__name__}.")
    for index, item in enumerate(items):
        if not isinstance(item, kind):
            raise InputError(f"{what}[{index}] is {type(item).__name__}, expected {kind.__name__}.")


def lazy() -> Any:
    """Return the pydantic private attribute that holds a `Lazy`."""
    return PrivateAttr(default_factory=Lazy)
