"""How many CPUs this process may use."""

from __future__ import annotations

import os
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")


def usable_cpus() -> int:
    """Return how many threads may compute at once: as affinity allows and the quota of the cgroup pays for."""
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = cpu_quota()
    return max(1, allowed if quota is None else min(allowed, int(quota)))


def cpu_quota(root: Path = _ROOT, of_process: Path = Path("/proc/self/cgroup")) -> float | None:
    """Return how many CPUs' time the cgroup of this process gets, the least of it and those around it; None for all."""
    quotas = []
    for folder in _folders(root, of_process):
        for read in (_second_version, _first_version):
            quota = read(folder)
            if quota is not None:
                quotas.append(quota)
    return min(quotas, default=None)


def _folders(root: Path, of_process: Path) -> list[Path]:
    """Return the folders of the cgroup and of those around it, in version 2 and in the CPU hierarchy of version 1."""
    try:
        lines = of_process.read_text(encoding="utf-8").splitlines()
    except OSError:
        return []
    folders = []
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "cpu" in controllers.split(","):
            base = root if controllers == "" else root / "cpu"
            own = base / path.lstrip("/")  # in a container that has its own view, the root itself
            folders += [folder for folder in (own, *own.parents) if folder.is_relative_to(base)]
    return folders


def _second_version(folder: Path) -> float | None:
    return _quotient(*_words(folder / "cpu.max"))


def _first_version(folder: Path) -> float | None:
    return _quotient(*_words(folder / "cpu.cfs_quota_us"), *_words(folder / "cpu.cfs_period_us"))


def _words(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="utf-8").split()
    except OSError:
        return []


def _quotient(*words: str) -> float | None:
    try:
        quota, period = (int(word) for word in words)
    except ValueError:  # no such file, or "max"
        return None
    return quota / period if quota > 0 and period > 0 else None
