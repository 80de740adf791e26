"""How a model is loaded: every option once, with its default, its help, its environment variable and its check.

Signatures, flags, the adapters' fields, cache keys and the README's table derive from `OPTIONS`.
"""

from __future__ import annotations

import inspect
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, TypedDict, TypeVar, get_args

from typing_extensions import Unpack

from zh_retrieval import checks
from zh_retrieval.errors import ConfigError
from zh_retrieval.migrating import advice
from zh_retrieval.recipes.spec import Task

Dtype = Literal["auto", "float32", "bfloat16", "float16"]
Quantization = Literal["int8", "int4"]
Overflow = Literal["truncate", "error", "window"]
WhenFull = Literal["wait", "refuse"]
DialectName = Literal["zh-retrieval", "tei", "openai"]
ScoreScale = Literal["auto", "logit", "probability"]

_OF_SERVERS = ("dialect", "served_model_name", "score_scale")

DescribedT = TypeVar("DescribedT", bound=Callable[..., Any])


class UnknownOptionError(ConfigError, TypeError):
    """There is no such option; a TypeError too, as of any function that does not know an argument."""


@dataclass(frozen=True, slots=True)
class Option:
    """One option of `load_encoder` and `load_reranker`.

    Attributes:
        name: The keyword; also the field and, with dashes, the flag.
        default: Its value where neither a call nor the environment says anything.
        help: What it means, in one line.
        check: Returns a value as it is kept, or raises ConfigError.
        changes_results: Whether it is part of cache keys and dumps; what only changes place or speed is not.
        environment: Variable that replaces the default; None has none.
        flag: Whether the command line has it.
        choices: The values there are; () where they cannot be listed.
    """

    name: str
    default: Any
    help: str
    check: checks.Check
    changes_results: bool
    environment: str | None
    flag: bool
    choices: tuple[str, ...]

    def from_environment(self) -> Any:
        """Return what the environment says, checked; None if nothing."""
        said = os.environ.get(self.environment, "").strip() if self.environment else ""
        if isinstance(self.default, bool):
            return said.lower() in ("1", "true", "yes", "on") or None
        if said and self.check is checks.secret:
            return checks.keys(str(self.environment), said)[0]  # a server takes each of them
        number = self.check in checks.NUMBERS and said.isdecimal()
        return self.check(str(self.environment), int(said) if number else said) if said else None


def _about(
    help: str,
    check: checks.Check | None = None,
    *,
    results: bool,
    environment: str | None = None,
    flag: bool = True,
    choices: tuple[str, ...] = (),
) -> dict[str, Option]:
    return {"option": Option("", None, help, check or checks.one_of(*choices), results, environment, flag, choices)}


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """Options of `load_encoder` and `load_reranker`, each checked and in the form in which it is kept.

    Attributes:
        {options}
    """

    # fmt: off
    path: str | Path | None = field(default=None, metadata=_about(
        "folder of weights of your own; the model's name then says the recipe", checks.folder, results=True,
    ))
    device: str = field(default="auto", metadata=_about(
        '"auto" (CUDA if present, else CPU), "cpu", "cuda", "cuda:1", "mps"', checks.device, results=False,
        environment="ZH_RETRIEVAL_DEVICE",
    ))
    dtype: Dtype = field(default="auto", metadata=_about(
        '"auto" (bfloat16 where the hardware computes in it), "float32", "bfloat16", "float16"', results=True,
        environment="ZH_RETRIEVAL_DTYPE", choices=get_args(Dtype),
    ))
    quantization: Quantization | None = field(default=None, metadata=_about(
        'weights rounded to "int8", or to "int4" for decoders, on the CPU', results=True,
        choices=get_args(Quantization),
    ))
    threads: int | None = field(default=None, metadata=_about(
        "threads that compute on the CPU; by default as many as affinity and cgroup give the process",
        checks.whole_number, results=False, environment="ZH_RETRIEVAL_THREADS",
    ))
    max_length: int | None = field(default=None, metadata=_about(
        "tokens of a sequence, special tokens included; the model's own by default", checks.tokens, results=True,
    ))
    revision: str | None = field(default=None, metadata=_about(
        "which snapshot of the hub; the recipe's by default", checks.text, results=True,
    ))
    cache_dir: str | Path | None = field(default=None, metadata=_about(
        "where snapshots are kept; ModelScope's cache by default", checks.folder, results=False,
        environment="ZH_RETRIEVAL_CACHE",
    ))
    local_files_only: bool = field(default=False, metadata=_about(
        "never use the network", checks.switch, results=False, environment="ZH_RETRIEVAL_OFFLINE",
    ))
    overflow: Overflow = field(default="truncate", metadata=_about(
        'longer input: "truncate" (one logged warning with counts), "error", for rerankers "window"', results=True,
        choices=get_args(Overflow),
    ))
    max_batch_tokens: int | None = field(default=None, metadata=_about(
        "tokens of one forward pass; chosen by device by default", checks.tokens, results=False,
    ))
    max_queue_tokens: int | None = field(default=None, metadata=_about(
        "waiting tokens per priority after which a synchronous caller waits; an awaiting caller awaits",
        checks.tokens, results=False, flag=False,
    ))
    when_full: WhenFull = field(default="wait", metadata=_about(
        'at max_queue_tokens: "wait", or "refuse" with OverloadedError', results=False, flag=False,
        choices=get_args(WhenFull),
    ))
    private: bool = field(default=False, metadata=_about(
        "do not share the weights", checks.switch, results=False, flag=False,
    ))
    device_map: Any = field(default=None, metadata=_about(
        "passed to transformers, for the 7B models; needs accelerate", checks.anything, results=False, flag=False,
    ))
    quantization_config: Any = field(default=None, metadata=_about(
        "passed to transformers, for the 7B models", checks.anything, results=True, flag=False,
    ))
    compile: bool = field(default=False, metadata=_about(
        "torch.compile, CUDA only: slow first calls, then fewer kernels", checks.switch, results=False,
    ))
    dimensions: int | None = field(default=None, metadata=_about(
        "how many of a vector's first numbers are kept, by models trained for that (Matryoshka); all by default",
        checks.whole_number, results=True,
    ))
    base_url: str | None = field(default=None, metadata=_about(
        "address of a server that computes (extra remote), such as 'http://gpu:8080'; no weights are loaded here",
        checks.address, results=False,
    ))
    api_key: str | None = field(default=None, repr=False, metadata=_about(
        "key of that server", checks.secret, results=False, environment="ZH_RETRIEVAL_API_KEY", flag=False,
    ))
    dialect: DialectName = field(default="zh-retrieval", metadata=_about(
        "what that server speaks: \"zh-retrieval\" (`zh-retrieval serve`), \"tei\", \"openai\" (vLLM, Xinference, "
        "Infinity)", results=False, choices=get_args(DialectName),
    ))
    served_model_name: str | None = field(default=None, metadata=_about(
        "what that server calls the model, where that is none of the model's own names", checks.text, results=False,
    ))
    score_scale: ScoreScale = field(default="auto", metadata=_about(
        'what that server\'s rerank scores are, with dialect "openai": "logit", "probability", or "auto" (asked once)',
        results=False, choices=get_args(ScoreScale),
    ))
    timeout: float = field(default=120.0, metadata=_about(
        "seconds that one request to that server may take, with all that is tried again", checks.seconds, results=False,
    ))
    # fmt: on

    def __post_init__(self) -> None:
        """Check every value that is not the default; what belongs together is checked by `check`."""
        for option in OPTIONS.values():
            value = getattr(self, option.name)
            if value is not option.default:
                object.__setattr__(self, option.name, option.check(option.name, value))

    @staticmethod
    def given(**options: Unpack[LoadKwargs]) -> LoadOptions:
        """Return the options of a call; one that is not given at all is what the environment says, if anything.

        Raises:
            UnknownOptionError: There is no such option.
            ConfigError: A value is wrong; the message names the option, or the environment variable.
        """
        unknown = {name: value for name, value in options.items() if name not in OPTIONS}
        if unknown:
            raise UnknownOptionError(f"There is no option {', '.join(map(repr, unknown))}. {advice(unknown, OPTIONS)}")
        said = {name: option.from_environment() for name, option in OPTIONS.items() if name not in options}
        if "local_files_only" in said:
            said["local_files_only"] = offline() or None
        return LoadOptions(**options, **{name: value for name, value in said.items() if value is not None})

    def check(self, task: Task) -> None:
        """Raise ConfigError for values that no model of the task supports."""
        if self.overflow == "window" and task != "reranking":
            raise ConfigError("overflow='window' is for rerankers. Use 'truncate', 'error', or Encoder.encode_chunks.")
        for name in () if self.base_url else _OF_SERVERS:
            if (value := getattr(self, name)) != OPTIONS[name].default:
                raise ConfigError(f"{name}={value!r} says something of a server. Give base_url= too, or leave it out.")


class LoadKwargs(TypedDict, total=False):
    """The fields of `LoadOptions` as keyword arguments, for type checkers."""

    path: str | Path | None
    device: str
    dtype: Dtype
    quantization: Quantization | None
    threads: int | None
    max_length: int | None
    revision: str | None
    cache_dir: str | Path | None
    local_files_only: bool
    overflow: Overflow
    max_batch_tokens: int | None
    max_queue_tokens: int | None
    when_full: WhenFull
    private: bool
    device_map: Any
    quantization_config: Any
    compile: bool
    dimensions: int | None
    base_url: str | None
    api_key: str | None
    dialect: DialectName
    served_model_name: str | None
    score_scale: ScoreScale
    timeout: float


OPTIONS: Mapping[str, Option] = MappingProxyType(
    {kind.name: replace(kind.metadata["option"], name=kind.name, default=kind.default) for kind in fields(LoadOptions)}
)
"""Name -> what is known of the option, in the order of `LoadOptions`."""

ENVIRONMENT: Mapping[str, str] = MappingProxyType(
    {name: option.environment for name, option in OPTIONS.items() if option.environment}
)
"""Option name -> environment variable that replaces its default; an explicit argument always wins."""


def offline_switch() -> str | None:
    """Return the environment variable that forbids the network, ours or one of Hugging Face's; None if none does."""
    names = (ENVIRONMENT["local_files_only"], "HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")
    return next(
        (name for name in names if os.environ.get(name, "").strip().lower() in ("1", "true", "yes", "on")), None
    )


def offline() -> bool:
    """Return True if an environment variable forbids the network."""
    return offline_switch() is not None


def table() -> list[tuple[str, str, str]]:
    """Return (name, help, how to say the default in the environment or "") of every option, for the README."""
    rows = []
    for name, option in OPTIONS.items():
        assigned = "=1" if isinstance(option.default, bool) else ""
        rows.append((name, option.help, f"{option.environment}{assigned}" if option.environment else ""))
    return rows


def documented(it: DescribedT) -> DescribedT:
    """Write the options where a docstring says `{options}`, and into the signature that `help` shows of a function."""
    lines = []
    for name, option in OPTIONS.items():
        default = (
            f"{option.default!r}, or what {option.environment} says" if option.environment else repr(option.default)
        )
        lines.append(f"{name}: {option.help[0].upper()}{option.help[1:]}. Default: {default}.")
    described: Any = it
    described.__doc__ = (described.__doc__ or "").replace("{options}", "\n        ".join(lines))
    if not isinstance(described, type):
        signature = inspect.signature(described)
        named = [entry for entry in signature.parameters.values() if entry.kind is not entry.VAR_KEYWORD]
        of_options = [
            inspect.Parameter(entry.name, inspect.Parameter.KEYWORD_ONLY, default=entry.default, annotation=entry.type)
            for entry in fields(LoadOptions)
        ]
        described.__signature__ = signature.replace(parameters=[*named, *of_options])
    return it


documented(LoadOptions)
