"""Emulators, and a Python of another architecture, from Debian's packages: unpacked into a folder.

apt fetches them with a state of its own and checks their signatures as ever. Nothing is installed, and dpkg does not
learn of the other architecture. Neither needs to be root.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

from tests.packaging.test_dependencies import PROJECT

TOOLS = ("apt-get", "dpkg-deb")
_GLIBC = (17, 28, 31, 34, 35)  # of manylinux


def missing() -> list[str]:
    """Return which tools of Debian this machine lacks."""
    return [tool for tool in TOOLS if shutil.which(tool) is None]


def emulator(folder: Path, machine: str) -> Path:
    """Return an installed qemu-MACHINE, or one that is fetched into a folder."""
    names = (f"qemu-{machine}", f"qemu-{machine}-static")
    found = next(filter(None, map(shutil.which, names)), None)
    if found is not None:
        return Path(found)
    places = [folder / "usr" / "bin" / name for name in reversed(names)]
    if not any(place.exists() for place in places):
        unpack(folder, ["qemu-user-static"])
    return next(place for place in places if place.exists())


def foreign_python(folder: Path, architecture: str = "arm64", machine: str = "aarch64") -> tuple[Path, Path]:
    """Return Debian's Python for an architecture, its libraries beside it, and a folder of what the package needs.

    The packages have the versions that compute here, if they say them.
    """
    root, site = folder / architecture, folder / f"{architecture}-site"
    if not (root / ".whole").exists():
        unpack(root, ["python3", "libstdc++6", "libgomp1"], architecture)
        (root / ".whole").touch()
    python = next(path for path in (root / "usr" / "bin").iterdir() if re.fullmatch(r"python3\.\d+", path.name))
    if not (site / ".whole").exists():
        shutil.rmtree(site, ignore_errors=True)
        number = python.name.removeprefix("python")
        abi = f"cp{number.replace('.', '')}"
        _run(
            [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile",
             "--target", str(site), "--only-binary=:all:", "--implementation", "cp", "--python-version", number,
             *(f"--abi={each}" for each in (abi, "abi3", "none")),
             f"--platform=manylinux2014_{machine}", *(f"--platform=manylinux_2_{each}_{machine}" for each in _GLIBC),
             *PROJECT["dependencies"], f"openvino=={version('openvino')}"]
        )  # fmt: skip
        (site / ".whole").touch()
    return python, site


def unpack(folder: Path, packages: Sequence[str], architecture: str | None = None) -> None:
    """Fetch Debian packages and all that they need, and unpack them into a folder."""
    state, archives = folder / "apt", folder / "apt" / "archives"
    for each in (state / "lists" / "partial", archives / "partial"):
        each.mkdir(parents=True, exist_ok=True)
    (state / "status").touch()  # nothing is installed
    options = {
        "APT::Architectures": architecture, "APT::Architecture": architecture, "Dir::State": state,
        "Dir::State::lists": state / "lists", "Dir::State::status": state / "status", "Dir::Cache": state,
        "Dir::Cache::archives": archives, "Debug::NoLocking": 1, "APT::Sandbox::User": "root",
    }  # fmt: skip
    apt = ["apt-get", "-qq", "--yes", *(f"-o{name}={value}" for name, value in options.items() if value is not None)]
    _run([*apt, "update"])
    _run([*apt, "--no-install-recommends", "--download-only", "install", *packages])
    for file in sorted(archives.glob("*.deb")):
        _run(["dpkg-deb", "-x", str(file), str(folder)])
    shutil.rmtree(state)
    if not (folder / "lib").exists():  # newer packages have all in usr
        (folder / "lib").symlink_to("usr/lib")


def _run(command: Sequence[str]) -> None:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{done.stderr[-2000:]}\n{command[0]} failed, see above: {' '.join(command)[:500]}")
