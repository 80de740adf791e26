"""What a cluster has, and how many workers of which size it takes."""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zh_retrieval.errors import ConfigError, MissingExtraError

_LOGGER = logging.getLogger(__name__)
_CPUS_OF_A_WORKER = 8  # on machines with more cores several processes are faster than one
_CPUS_BESIDE_A_GPU = 4  # tokenizing for one GPU
_OBJECT_STORE = 100_000_000  # bytes: what travels is names and counts


@dataclass(frozen=True, slots=True)
class Node:
    """What one machine of a cluster lends to workers."""

    cpus: int
    gpus: int = 0


@dataclass(frozen=True, slots=True)
class Workers:
    """How many workers there are, and what each of them gets: CPUs are threads, too."""

    count: int
    cpus: int
    gpus: int = 0


def require(module: str, package: str = "zh-retrieval[ray]") -> Any:
    """Return a module of a package that is optional: of the extra `ray`, or of one named here.

    Raises:
        MissingExtraError: It is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtraError(f'{module} cannot be imported ({error}). Run: pip install "{package}"') from error


@contextmanager
def connected(address: str | None) -> Iterator[Any]:
    """Yield Ray, connected for as long as the block runs.

    Args:
        address: "local" starts a cluster of this machine that ends with the block; "auto" or an address takes one
            that runs; a connection that this process has already is used, and stays.

    Raises:
        MissingExtraError: Ray is not installed.
        ConfigError: No cluster answers there.
    """
    ray = require("ray")
    if ray.is_initialized():
        yield ray
        return
    options: dict[str, Any] = {"address": address, "log_to_driver": False, "logging_level": "ERROR"}
    if address == "local":
        options |= {"include_dashboard": False, "object_store_memory": _OBJECT_STORE}
    try:
        ray.init(**options)
    except Exception as error:  # Ray raises a bare Exception when a start takes too long
        raise ConfigError(_why_not(error, address)) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def _why_not(error: Exception, address: str | None) -> str:
    causes = [cause for cause in (error, error.__cause__, error.__context__) if cause is not None]
    refused = next((cause for cause in causes if "auth" in f"{type(cause).__name__} {cause}".lower()), None)
    if refused is not None:
        return (
            f"The Ray cluster at {address!r} takes nobody without its token ({_short(refused)}). Set "
            "RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN where ~/.ray/auth_token is not the cluster's."
        )
    if address == "local":
        return f"Ray does not start on this machine ({_short(error)}). Try again, or leave --ray out."
    return f"No Ray cluster answers at {address!r} ({_short(error)}). Give --ray its address, or --ray local."


def _short(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:160].rstrip(".")


def nodes(ray: Any) -> list[Node]:
    """Return the machines of the connected cluster that live."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in found]


def plan_workers(
    machines: Sequence[Node], workers: int | None, cpus: int | None, device: str = "auto", *,
    gpus: int | None = None, say: Callable[[str], object] = _LOGGER.warning,
) -> Workers:  # fmt: skip
    """Return how many workers to start and what each gets, so that no core has two threads.

    A cluster with GPUs gets one worker for each of them, another one as many as fit with all CPUs in use. Each part
    may be given: CPUs are then shared among so many workers, or as many workers started as have so many CPUs. What is
    given is asked for, whatever the cluster has now: one that grows with what is asked for may have nothing yet.

    Args:
        machines: Those of the cluster.
        workers: How many.
        cpus: CPUs of each.
        device: "auto", "cpu", "cuda": that of the load options.
        gpus: GPUs of each; 0 for none.
        say: Takes a line about a cluster that has nothing yet.

    Raises:
        ConfigError: A number is not positive, or the device is a GPU and the cluster has none.
    """
    for name, value, least in (("workers", workers, 1), ("cpus", cpus, 1), ("gpus", gpus, 0)):
        if value is not None and value < least:
            raise ConfigError(f"{name}={value} must be a whole number from {least} on, or None.")
    if device.startswith("cuda:"):
        raise ConfigError(f"device={device!r}: Ray gives each worker a GPU of its own. Use device='cuda'.")
    there = sum(node.gpus for node in machines)
    if device == "cuda" and gpus is None and not there:
        raise ConfigError(
            "device='cuda', and the cluster has no GPU. Use device='cpu', or add a machine with GPUs; if the cluster "
            "grows when it is asked to, ask with gpus=1 and workers (--gpus 1 --workers N)."
        )
    if device == "cuda" and gpus == 0:
        raise ConfigError("device='cuda' with gpus=0: Ray would hide every GPU. Leave one of them out.")
    if workers is None and not any(node.cpus for node in machines):
        say("the cluster has no CPU yet, so one worker is asked for: say how many with workers (--workers N)")
    if gpus or (gpus is None and there and device in ("auto", "cuda")):
        each = gpus or 1
        beside = min((node.cpus * each // node.gpus for node in machines if node.gpus >= each), default=cpus or 1)
        room = sum(node.gpus // each for node in machines)
        return Workers(workers or max(1, room), cpus or max(1, min(beside, _CPUS_BESIDE_A_GPU * each)), gpus=each)
    sizes = [node.cpus for node in machines if node.cpus]
    if cpus is None:
        wanted = workers or 1
        fitting = [size for size in range(1, max(sizes, default=1) + 1) if _fit(sizes, size) >= wanted]
        cpus = max(fitting, default=1) if workers else min(max(fitting, default=1), _CPUS_OF_A_WORKER)
    return Workers(workers or max(1, _fit(sizes, cpus)), cpus)


def _fit(sizes: Sequence[int], cpus: int) -> int:
    return sum(size // cpus for size in sizes)


def assigned_threads() -> int | None:
    """Return the CPUs that Ray assigned to this worker, at least 1; None outside of a worker of Ray.

    More threads than that would wait for each other, and for those of the workers beside it.
    """
    ray = sys.modules.get("ray")  # who is a worker of Ray has imported it
    if ray is None or not ray.is_initialized() or ray.get_runtime_context().get_actor_id() is None:
        return None
    return max(1, int(ray.get_runtime_context().get_assigned_resources().get("CPU", 0)))


def use_threads(options: dict[str, Any], threads: int | None) -> dict[str, Any]:
    """Return load options with which a model of this process, which is a worker's, computes in so many CPU threads."""
    if threads is None or options.get("threads") is not None:
        return options
    return {**options, "threads": threads}
