"""The settings of an adapter as pydantic fields, and the weights they say how to load.

Needs pydantic, which both frameworks bring. Imports no torch: that comes with the weights.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, ClassVar, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from typing_extensions import Self

from zh_retrieval import checks
from zh_retrieval.base import Model
from zh_retrieval.errors import ZhRetrievalError
from zh_retrieval.frameworks.lazy import Lazy
from zh_retrieval.frameworks.refusals import refusal
from zh_retrieval.options import (
    OPTIONS,
    DialectName,
    Dtype,
    LoadKwargs,
    LoadOptions,
    Overflow,
    Quantization,
    ScoreScale,
    WhenFull,
)
from zh_retrieval.recipes.registry import adopt, check_task, get_spec, registered
from zh_retrieval.recipes.rules import check_dimensions
from zh_retrieval.recipes.spec import ModelSpec, Task

WEIGHTS = "weights"  # in a dictionary of settings: the hash of a folder's weights
_PLACE = ("local_files_only", "base_url", "dialect", "served_model_name", "score_scale", "timeout")
"""Options that change no result, and are in dumps all the same: what was remote, or offline, comes back as that."""


def _option(name: str, *, repr: bool = True) -> Any:
    """Return the field of an option; device and the like are left out of dumps, so that caches keyed by one hold."""
    option = OPTIONS[name]
    exclude = None if option.changes_results or name in _PLACE else True
    return Field(default=option.default, exclude=exclude, repr=repr, description=option.help)


class LoadFields(BaseModel):
    """The options of `zh_retrieval.options.LoadOptions` as fields, and what both tasks do with them.

    A field that is set goes through the same checks as an argument, and is left as it was if they refuse it. One that
    says how to load takes effect at the next call; calls that run keep their weights to the end. Adapters of one class
    have one hash, so that equal ones have equal hashes and a changed one is still found.
    """

    model_config = ConfigDict(
        extra="forbid", protected_namespaces=(), populate_by_name=True, validate_assignment=True,
        hide_input_in_errors=True,  # a key is one of the inputs
    )  # fmt: skip

    model_name: str = Field(alias="model", description="Name, alias or hub id of the model.")
    path: str | Path | None = _option("path")
    device: str = _option("device")
    dtype: Dtype = _option("dtype")
    quantization: Quantization | None = _option("quantization")
    threads: int | None = _option("threads")
    max_length: int | None = _option("max_length")
    revision: str | None = _option("revision")
    cache_dir: str | Path | None = _option("cache_dir")
    local_files_only: bool = _option("local_files_only")
    overflow: Overflow = _option("overflow")
    max_batch_tokens: int | None = _option("max_batch_tokens")
    max_queue_tokens: int | None = _option("max_queue_tokens")
    when_full: WhenFull = _option("when_full")
    private: bool = _option("private")
    device_map: Any = _option("device_map")
    quantization_config: Any = _option("quantization_config")
    compile: bool = _option("compile")
    dimensions: int | None = _option("dimensions")
    base_url: str | None = _option("base_url")
    api_key: str | None = _option("api_key", repr=False)
    dialect: DialectName = _option("dialect")
    served_model_name: str | None = _option("served_model_name")
    score_scale: ScoreScale = _option("score_scale")
    timeout: float = _option("timeout")
    show_progress: bool = Field(default=False, exclude=True, description="Show a bar for downloads and long calls.")

    _task: ClassVar[Task]
    _lazy: Lazy[Any] = PrivateAttr(default_factory=Lazy)

    def __init__(self, model: str | None = None, **fields: Any) -> None:
        """Take the model by position, or as `model` or `model_name`; check everything, load nothing yet.

        Raises:
            UnknownModelError: No such model.
            WrongTaskError: The model does the other task.
            ConfigError: An argument is unknown or has the wrong type, or an option does not fit the model.
        """
        name = getattr(self, "class_name", None)
        if name is not None and fields.get("class_name") == name():
            del fields["class_name"]  # LlamaIndex writes it into every dump
        if fields.get("api_key") is not None:  # checked here: pydantic's message would hold it
            fields["api_key"] = checks.secret("api_key", fields["api_key"])
        refused = None
        try:
            super().__init__(**({"model": model} if model is not None else {}), **fields)
        except ValidationError as error:
            refused = refusal(type(self).__name__, error, self._arguments())
        if refused is not None:  # raised here: it must not have pydantic's error, with all that was given, behind it
            raise refused
        self.check_settings()

    @field_validator(*OPTIONS, mode="before")
    @classmethod
    def _as_kept(cls, value: Any, info: ValidationInfo) -> Any:
        """Give numbers of any integer type and paths of any kind their one form, before pydantic judges types."""
        check = OPTIONS[str(info.field_name)].check
        kept = check in checks.NUMBERS and value is not None and not isinstance(value, str)
        return check(str(info.field_name), value) if kept or isinstance(value, os.PathLike) else value

    def __setattr__(self, name: str, value: Any) -> None:
        """Set a field after all checks; one that says how to load takes effect at the next call."""
        if name not in type(self).model_fields:
            super().__setattr__(name, value)
            return
        if name == "api_key" and value is not None:
            value = checks.secret(name, value)
        trial = self.model_copy()
        refused = None
        try:
            super(LoadFields, trial).__setattr__(name, value)
        except ValidationError as error:
            refused = refusal(type(self).__name__, error, self._arguments())
        if refused is not None:
            raise refused
        trial.check_settings()
        before = getattr(self, name)
        super().__setattr__(name, value)
        if (name in OPTIONS or name == "model_name") and getattr(self, name) != before:
            self._lazy.drop()

    @classmethod
    def _arguments(cls) -> list[str]:
        return ["model", *cls.model_fields]

    def __hash__(self) -> int:
        return hash(type(self))

    def __copy__(self) -> Self:
        """Return a copy that loads by its own options: `model_copy(update=...)` may change them."""
        copied = super().__copy__()
        copied._lazy = Lazy()
        return copied

    def __getstate__(self) -> dict[Any, Any]:
        """Return the settings, and a recipe that was registered: another process does not know its name.

        A key does not travel: the other process has its own in ZH_RETRIEVAL_API_KEY.
        """
        state = super().__getstate__()
        settings = {**state["__dict__"], "api_key": None}
        said = state["__pydantic_fields_set__"] - {"api_key"}
        return {
            **state,
            "__dict__": settings,
            "__pydantic_fields_set__": said,
            "recipe": registered(self.model_name),
        }

    def __setstate__(self, state: dict[Any, Any]) -> None:
        """Know again what was set: LlamaIndex makes the object anew, as if every field had been given."""
        state = dict(state)
        if (recipe := state.pop("recipe", None)) is not None:
            adopt(recipe)
        super().__setstate__(state)
        object.__setattr__(self, "__pydantic_fields_set__", set(state["__pydantic_fields_set__"]))

    @property
    def spec(self) -> ModelSpec:
        """Return the recipe of the model."""
        return get_spec(self.model_name)

    def load_options(self) -> LoadKwargs:
        """Return the keyword arguments of `load_encoder` or `load_reranker`: what was set or is not the default.

        What was never set is left out, so that the environment can say it.
        """
        values = {name: getattr(self, name) for name in OPTIONS}
        said = {name: value for name, value in values.items() if name in self.model_fields_set}
        return cast("LoadKwargs", said | {name: v for name, v in values.items() if v != OPTIONS[name].default})

    def check_settings(self) -> None:
        """Raise UnknownModelError, WrongTaskError or ConfigError now rather than at the first call."""
        check_task(self.spec, self._task)
        LoadOptions(**self.load_options()).check(self._task)
        check_dimensions(self.spec, self.dimensions, None)

    def identity(self) -> dict[str, Any]:
        """Return everything that changes a result of this model, as `zh_retrieval.frameworks.identity.identity`.

        Weights that are loaded are the ones that count, though others may have taken their place.
        """
        from zh_retrieval.frameworks.identity import identity

        return identity(self.spec, LoadOptions.given(**self.load_options()), self._lazy.loaded())

    def weights(self) -> dict[str, Any]:
        """Return {"weights": hash} of a folder of the user's that is here, {} for a hub's model: it has a revision."""
        from zh_retrieval.frameworks.identity import weights_here

        if self.path is None or self.base_url is not None:
            return {}
        try:
            return {WEIGHTS: weights_here(self.spec, LoadOptions.given(**self.load_options()), self._lazy.loaded())}
        except (ZhRetrievalError, OSError):  # no folder, or a broken one: whoever loads it says so
            return {}

    def warmup(self) -> None:
        """Load the weights and compute once, so that the first user does not wait for either."""
        self._load().warmup()

    def unload(self) -> None:
        """Forget the weights: they are freed with the last call that runs, and the next one loads them again."""
        self._lazy.drop()

    async def aunload(self) -> None:
        """Do what `unload` does, the freeing of memory in another thread: the event loop goes on meanwhile."""
        await self._lazy.adrop()

    def _load(self) -> Any:
        return self._lazy.get(self._open)

    async def _aload(self) -> Any:
        return await self._lazy.aget(self._open)

    def _open(self) -> Model:
        from zh_retrieval.loading import load_encoder, load_reranker

        load = load_encoder if self._task == "embedding" else load_reranker
        return load(self.model_name, **self.load_options(), show_progress=self.show_progress)


class Settings(dict[str, Any]):
    """A dump of settings, written out without what only says how to load: LlamaIndex keys its caches by the text."""

    def __repr__(self) -> str:
        return repr({name: value for name, value in self.items() if name not in ("local_files_only", "timeout")})

    __str__ = __repr__


def without_defaults(stored: dict[str, Any]) -> dict[str, Any]:
    """Return what a dump says beyond the options' defaults: it cannot tell whether these were asked for.

    So the environment of the machine that reads a dump speaks where the one that wrote it left the default. Nor the
    hash of the weights that there were: those of this machine count.
    """
    said = {name: value for name, value in stored.items() if name != WEIGHTS}
    return {name: value for name, value in said.items() if name not in OPTIONS or value != OPTIONS[name].default}
