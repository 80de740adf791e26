"""`zh-retrieval doctor`: what this machine has, and what to do about it."""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import platform
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from zh_retrieval.cli.flags import add_load_flags, load_options, take_folder
from zh_retrieval.cli.texts import examine_text, print_text
from zh_retrieval.errors import ConfigError
from zh_retrieval.hub.cache import huggingface_root, locate, modelscope_root
from zh_retrieval.options import LoadOptions, offline, offline_switch
from zh_retrieval.recipes.registry import all_specs
from zh_retrieval.table import render

HELP = "show versions, devices, caches, hubs and the state of each model, with advice; or test one model"
_PACKAGES = (
    "zh-retrieval", "openvino", "torch", "transformers", "tokenizers", "safetensors", "modelscope-hub",
    "huggingface-hub", "langchain-core", "llama-index-core", "pyarrow",
)  # fmt: skip


def register(parser: argparse.ArgumentParser) -> None:
    """Add the flags."""
    parser.add_argument(
        "text", metavar="TEXT", nargs="?",
        help="say of a text, for every model that is here: script, tokens, unknown characters, what is not read",
    )  # fmt: skip
    parser.add_argument("--model", metavar="NAME[=FOLDER]", help="with TEXT: for this model alone")
    parser.add_argument("--json", action="store_true", help="machine-readable")
    parser.add_argument("--verify", action="store_true", help="hash every downloaded file (minutes for large models)")
    parser.add_argument(
        "--selftest",
        metavar="NAME[=FOLDER]",
        help="load a model and compare it with published values (not with --path) and with itself; downloads nothing",
    )
    parser.add_argument(
        "--sizing",
        metavar="NAME[=FOLDER]",
        help="measure a model here: memory, texts or pairs a core, one query; a minute",
    )
    parser.add_argument("--random", action="store_true", help="with --sizing: random weights of the real size")
    add_load_flags(parser)


def run(arguments: argparse.Namespace) -> int:
    """Print the report; status 1 if --verify found a broken file or a check of --selftest fails."""
    if arguments.sizing and arguments.selftest:
        raise ConfigError("--sizing and --selftest are two questions. Ask one.")
    if arguments.random and not arguments.sizing:
        raise ConfigError("--random is for --sizing. Add it, or leave --random out.")
    take_folder(arguments, "sizing")
    if arguments.sizing:
        from zh_retrieval.cli.sizing import print_sizing

        return print_sizing(arguments)
    take_folder(arguments, "selftest")
    take_folder(arguments)
    if arguments.selftest:
        return _selftest(arguments)
    if arguments.text is not None:
        return _text(arguments)
    if arguments.model is not None:
        raise ConfigError("--model goes with a TEXT. For a test of a model: --selftest NAME.")
    report = examine(LoadOptions.given(**load_options(arguments)).cache_dir, verify=arguments.verify)
    if arguments.json:
        print(json.dumps(report, ensure_ascii=False, indent=1))
    else:
        _print(report)
    return 1 if any(model["problems"] for model in report["models"]) else 0


def _selftest(arguments: argparse.Namespace) -> int:
    from zh_retrieval.selftest import selftest

    checks = selftest(arguments.selftest, **load_options(arguments))
    if arguments.json:
        print(json.dumps([asdict(check) for check in checks], ensure_ascii=False, indent=1))
    else:
        for check in checks:
            print(f"{'ok    ' if check.passed else 'FAILED'}  {check.name}: {check.detail}")
    return 0 if all(check.passed for check in checks) else 1


def _text(arguments: argparse.Namespace) -> int:
    options = LoadOptions.given(**load_options(arguments))
    found = examine_text(arguments.text, arguments.model, arguments.path, options.cache_dir, options.max_length)
    if arguments.json:
        print(json.dumps(found, ensure_ascii=False, indent=1))
    else:
        print_text(found)
    return 0


def examine(cache_dir: str | Path | None, *, verify: bool = False) -> dict[str, Any]:
    """Return the whole report as JSON-ready values."""
    from zh_retrieval.hub.download import reachable, unusable_proxy

    hubs: tuple[Literal["modelscope", "huggingface"], ...] = ("modelscope", "huggingface")
    report: dict[str, Any] = {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in _PACKAGES},
        **_hardware(),
        "caches": [_cache(root) for root in (lambda: modelscope_root(cache_dir), huggingface_root)],
        "rounded": _rounded(cache_dir),
        "offline": offline(),
        "hubs": {hub: None if offline() else reachable(hub) for hub in hubs},
        "proxies": [f"{hub}: {problem}" for hub in hubs if not offline() and (problem := unusable_proxy(hub))],
        "models": [_model(spec, cache_dir, verify) for spec in all_specs()],
    }
    report["advice"] = _advice(report)
    return report


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _hardware() -> dict[str, Any]:
    from zh_retrieval.engine.cpus import usable_cpus
    from zh_retrieval.engine.hardware import cpu_features, has_torch, resolve_device, resolve_dtype

    device = resolve_device("auto")
    cuda, mps = [], False
    if has_torch():
        import torch

        cuda = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        mps = torch.backends.mps.is_available()
    return {
        "devices": {"cpu_threads": usable_cpus(), "cuda": cuda, "mps": mps},
        "cpu_features": cpu_features(),
        "auto": {"device": device, "dtype": resolve_dtype("auto", device)},
    }


def _cache(root: Callable[[], Path]) -> dict[str, Any]:
    from zh_retrieval.hub.snapshot import size_on_disk

    try:
        folder = root()
    except ConfigError as error:
        return {"path": None, "bytes": 0, "problem": str(error)}
    return {"path": str(folder), "bytes": size_on_disk(folder) if folder.is_dir() else 0, "problem": None}


def _rounded(cache_dir: str | Path | None) -> dict[str, Any]:
    """Return what is kept of weights that were rounded at an earlier start."""
    folder, found = None, []
    with contextlib.suppress(ImportError, ConfigError):  # no OpenVINO here, or no home
        from zh_retrieval.engine.openvino.weights.keeping import keeping_folder, kept_files

        folder = keeping_folder(modelscope_root(cache_dir))
        found = kept_files(folder) if folder is not None else []
    return {
        "path": None if folder is None else str(folder),
        "files": len(found),
        "bytes": sum(size for _, size, _ in found),
        "unused_days": round(found[0][2] / 86400) if found else None,
    }


def _model(spec: Any, cache_dir: str | Path | None, verify: bool) -> dict[str, Any]:
    from zh_retrieval.hub.snapshot import verify as verify_folder

    state = locate(spec, cache_dir=cache_dir)
    hashed = verify and state.status == "present" and state.path is not None and state.source.hub != "builtin"  # type: ignore[union-attr]
    return {
        "name": spec.name,
        "state": state.status,
        "bytes": state.size,
        "path": str(state.path) if state.path else None,
        "missing": list(state.missing),
        "problems": verify_folder(state.path) if hashed and state.path else [],
    }


def _advice(report: dict[str, Any]) -> list[str]:
    advice = []
    if report["auto"]["device"] == "cpu" and report["auto"]["dtype"] == "float32":
        advice.append("This CPU has no bfloat16 arithmetic: float32 is used. quantization='int8' may be faster.")
    if report["packages"]["torch"] is None:
        advice.append(
            'torch is not installed; GPUs and models without a graph need it: pip install "zh-retrieval[torch]"'
        )
    if report["packages"]["langchain-core"] is None:
        advice.append('LangChain is not installed: pip install "zh-retrieval[langchain]"')
    if report["packages"]["llama-index-core"] is None:
        advice.append('LlamaIndex is not installed: pip install "zh-retrieval[llama-index]"')
    if report["offline"]:
        advice.append(f"{offline_switch()} is set: nothing is downloaded.")
    elif not any(report["hubs"].values()):
        advice.append("No hub answers: only models that are present, path= and the built-in model work.")
    advice += [*report["proxies"], *(cache["problem"] for cache in report["caches"] if cache["problem"])]
    for model in report["models"]:
        if model["state"] == "partial":
            advice.append(f"{model['name']} is incomplete: zh-retrieval download {model['name']}")
        advice += [f"{model['name']}: {problem}" for problem in model["problems"]]
    return advice or ["Nothing to do."]


def _print(report: dict[str, Any]) -> None:
    versions = [f"{name} {version or '-'}" for name, version in report["packages"].items()]
    print(f"python {report['python']}, {', '.join(versions)}")
    features = [name for name, present in report["cpu_features"].items() if present]
    print(f"cpu: {report['devices']['cpu_threads']} threads, {', '.join(features) or 'no vector extensions known'}")
    print(f"cuda: {', '.join(report['devices']['cuda']) or 'none'}")
    print(f"auto: device {report['auto']['device']}, dtype {report['auto']['dtype']}")
    answers = {None: "not asked (offline)", True: "reachable", False: "not reachable"}
    print("hubs: " + ", ".join(f"{hub} {answers[state]}" for hub, state in report["hubs"].items()))
    for cache in report["caches"]:
        print(f"cache: {cache['path'] or 'nowhere'} ({cache['bytes'] / 1e6:.0f} MB)")
    rounded = report["rounded"]
    if rounded["files"]:
        print(
            f"rounded weights: {rounded['path']} ({rounded['files']} files, {rounded['bytes'] / 1e6:.0f} MB, the "
            f"oldest unused for {rounded['unused_days']} days); they may be removed, and go by themselves after 30 days"
        )
    rows = [
        (
            m["name"],
            m["state"],
            f"{m['bytes'] / 1e6:.0f} MB" if m["bytes"] else "-",
            ", ".join(m["missing"]) or (m["path"] or ""),
        )
        for m in report["models"]
    ]
    print("\n" + render(("model", "state", "on disk", "where, or what is missing"), rows, (30, 8, 10, 90)) + "\n")
    for line in report["advice"]:
        print(f"- {line}")
