"""What a cluster has, and how many workers of which size it takes."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from zh_retrieval.errors import ConfigError, MissingExtraError

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
    except ConnectionError as error:
        raise ConfigError(
            f"No Ray cluster answers at {address!r}: {error}. Give --ray its address, or --ray local for this machine."
        ) from error
    try:
        yield ray
    finally:
        ray.shutdown()


def nodes(ray: Any) -> list[Node]:
    """Return the machines of the connected cluster that live."""
    found = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [Node(int(resources.get("CPU", 0)), int(resources.get("GPU", 0))) for resources in found]


def plan_workers(machines: Sequence[Node], workers: int | None, cpus: int | None, device: str = "auto") -> Workers:
    """Return how many workers to start and what each gets, so that no core has two threads.

    A cluster with GPUs gets one worker for each of them, another one as many as fit with all CPUs in use. Each part
    may be given: CPUs are then shared among so many workers, or as many workers started as have so many CPUs.

    Raises:
        ConfigError: A number is not positive, or the device is a GPU and the cluster has none.
    """
    for name, value in (("workers", workers), ("cpus", cpus)):
        if value is not None and value < 1:
            raise ConfigError(f"{name}={value} must be a positive whole number, or None.")
    gpus = sum(node.gpus for node in machines)
    if device.startswith("cuda") and not gpus:
        raise ConfigError(f"device={device!r}, and the cluster has no GPU. Use device='cpu', or add a node with GPUs.")
    if gpus and device in ("auto", "cuda"):
        count = workers or gpus
        beside = max(1, min(node.cpus // node.gpus for node in machines if node.gpus))
        return Workers(count, cpus or min(beside, _CPUS_BESIDE_A_GPU), gpus=1)
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
