"""Where rounded weights are kept between starts: who may read and write there, and when they go again.

A file is written under a name of its own and renamed when it is whole, so whoever finds one reads it without a lock:
a folder that cannot be written to, in an image or of another user, serves as well. One process at a time rounds where
a lock can be had; where not, two may do the same work, and the later one replaces an equal file.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from zh_retrieval.engine.openvino.weights.kept import RoundedWeights, read_index

logger = logging.getLogger(__name__)

ENVIRONMENT = "ZH_RETRIEVAL_ROUNDED_WEIGHTS"
"""Variable that says in which folder rounded weights are kept, or "off": then in a temporary file that is not kept."""

SMALL = 1_000_000_000  # bytes that memory may hold twice
_DAY = 24 * 3600.0
_UNUSED = 30 * _DAY  # seconds without a start after which a kept file goes, when another one is written
_MEMORY = ("tmpfs", "ramfs", "devtmpfs")  # file systems whose files are memory


def keeping_folder(root: Path) -> Path | None:
    """Return where rounded weights are kept: what the environment says, else a folder of the cache; None is nowhere."""
    said = os.environ.get(ENVIRONMENT, "").strip()
    if said.lower() in ("off", "0", "no", "false"):
        return None
    return Path(said).expanduser() if said else root / "zh-retrieval-rounded"


@contextlib.contextmanager
def rounded_weights(folder: Path | None, name: Callable[[], str], size: int) -> Iterator[RoundedWeights]:
    """Give rounded weights: those kept in a folder under a name, or new ones, which are kept if the block ends well.

    Where nothing can be kept, a temporary file takes its place, and memory where no disk has room for that either. What
    is small is in memory always.

    Args:
        folder: Where to keep; None is nowhere.
        name: Returns the name; it may have to read all weights, and is asked only where it is needed.
        size: About how many bytes there will be.
    """
    if size < SMALL:
        yield RoundedWeights()
        return
    path = None if folder is None else folder / f"{name()}.weights"
    with contextlib.ExitStack() as stack:
        found = None if path is None else _found(path, stack)
        if found is None and path is not None and _has_room(path.parent, size):
            stack.enter_context(_locked(path))
            found = _found(path, stack)  # of another process, meanwhile
            if found is None:
                yield from _written(path, size)
                return
        yield found if found is not None else _temporary(size, stack)


def _found(path: Path, stack: contextlib.ExitStack) -> RoundedWeights | None:
    """Return what is kept under a path; None if nothing is, or if it is damaged or may not be read."""
    try:
        file = stack.enter_context(path.open("rb"))
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.warning("Rounded weights are there but cannot be read: %s", error)
        return None
    index = read_index(file)
    if index is None:
        logger.warning("%s is damaged: it is made anew", path)
        return None
    with contextlib.suppress(OSError):  # of another user
        os.utime(path)  # the time of its last use
    return RoundedWeights(file, index)


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other processes from rounding the same meanwhile, where that is possible: it saves work, nothing else."""
    from filelock import FileLock

    lock = FileLock(f"{path}.lock", mode=0o666)  # whoever shares the folder must be able to take it
    try:
        lock.acquire()
    except (OSError, NotImplementedError) as error:  # of another user, or the file system has no locks
        logger.info("Rounding goes on without a lock: %s", error)
        yield
        return
    owner = os.getpid()
    try:
        yield
    finally:
        if os.getpid() == owner:
            lock.release()


def _written(path: Path, size: int) -> Iterator[RoundedWeights]:
    logger.info("Rounded weights, %.1f GB, are kept in %s; %s says where, or off", size / 1e9, path, ENVIRONMENT)
    _forget_unused(path.parent)
    writer = os.getpid()
    partial = path.with_suffix(f".{writer}.partial")
    try:
        with partial.open("w+b", buffering=0) as file:
            weights = RoundedWeights(file)
            yield weights
            whole = weights.finish()
        if whole:
            partial.replace(path)
    finally:
        if os.getpid() == writer:  # a child that was forked meanwhile ends this block, too
            partial.unlink(missing_ok=True)


def _temporary(size: int, stack: contextlib.ExitStack) -> RoundedWeights:
    places = [tempfile.gettempdir(), *(["/var/tmp"] if os.name == "posix" else [])]
    for place in places:
        if _has_room(Path(place), size) and not _is_memory(Path(place)):
            return RoundedWeights(stack.enter_context(tempfile.TemporaryFile(dir=place, buffering=0)))
    logger.warning("No disk has room for %.1f GB of rounded weights: memory holds them twice", size / 1e9)
    return RoundedWeights()


def kept_files(folder: Path) -> list[tuple[Path, int, float]]:
    """Return the kept files of a folder with their bytes and the seconds since their last use, oldest use first."""
    found = []
    for path in folder.glob("*.weights") if folder.is_dir() else ():
        with contextlib.suppress(OSError):  # another process removes them
            state = path.stat()
            found.append((path, state.st_size, time.time() - state.st_mtime))
    return sorted(found, key=lambda entry: -entry[2])


def _forget_unused(folder: Path) -> None:
    """Remove what no start used for a month, and what a process that was killed left half written."""
    old = [path for path, _, unused in kept_files(folder) if unused > _UNUSED]
    with contextlib.suppress(OSError):
        old += [path for path in folder.glob("*.partial") if time.time() - path.stat().st_mtime > _DAY]
    for path in old:
        with contextlib.suppress(OSError):  # Windows: a process has it open
            path.unlink()
            logger.info("%s was not used for long and is removed", path)
            Path(f"{path}.lock").unlink(missing_ok=True)


def _has_room(folder: Path, size: int) -> bool:
    """Return True if a folder can be written to and has room."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return os.access(folder, os.W_OK) and shutil.disk_usage(folder).free > 1.05 * size
    except OSError:
        return False


def _is_memory(folder: Path) -> bool:
    """Return True if a folder's files lie in memory, where the system says so (Linux)."""
    device = folder.stat().st_dev
    try:
        lines = Path("/proc/self/mountinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return False
    number = f"{os.major(device)}:{os.minor(device)}"
    return any(line.split()[2] == number and line.partition(" - ")[2].startswith(_MEMORY) for line in lines)
