"""Results on disk, by what they are made of: a second run computes only what is new, a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np

Arrays = Mapping[str, "np.ndarray"]


def default_root() -> Path:
    """Return where results are kept if no folder is given: below the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "zh-retrieval" / "evaluation"


def digest(parts: Iterable[str]) -> str:
    """Return 32 hexadecimal digits that stand for texts in their order."""
    found = hashlib.sha256()
    for part in parts:
        data = part.encode("utf-8", "surrogatepass")
        found.update(len(data).to_bytes(8, "little"))
        found.update(data)
    return found.hexdigest()[:32]


class Store:
    """A folder of shelves, one for each recipe. Without a folder it lives as long as the object."""

    def __init__(self, root: Path | None) -> None:
        self.root = Path(tempfile.mkdtemp(prefix="zh-retrieval-eval-")) if root is None else root
        if root is None:
            weakref.finalize(self, shutil.rmtree, self.root, ignore_errors=True)

    def shelf(self, kind: str, recipe: Mapping[str, Any]) -> Shelf:
        """Return the shelf of what `recipe` makes; equal recipes share it."""
        text = json.dumps(recipe, sort_keys=True, ensure_ascii=False, default=repr, indent=1)
        return Shelf(self.root / f"{kind}-{digest([text])}", text)


class Shelf:
    """Blocks of arrays, each in a file named after its input.

    A file appears under its name only when it is whole; one that cannot be read is computed again.
    """

    def __init__(self, folder: Path, recipe: str) -> None:
        self._folder = folder
        self._recipe = recipe

    def load(self, name: str) -> dict[str, np.ndarray] | None:
        """Return a block, or None if it is not there."""
        import numpy as np

        try:
            with (self._folder / f"{name}.npz").open("rb") as stream, np.load(stream, allow_pickle=False) as arrays:
                return {key: arrays[key] for key in arrays.files}
        except (OSError, ValueError, EOFError, zipfile.BadZipFile):
            return None

    def has(self, name: str) -> bool:
        """Return True if a block is there."""
        return (self._folder / f"{name}.npz").exists()

    def save(self, name: str, arrays: Arrays) -> None:
        """Keep a block."""
        import numpy as np

        self._folder.mkdir(parents=True, exist_ok=True)
        about = self._folder / "recipe.json"
        if not about.exists():
            about.write_text(self._recipe, encoding="utf-8")
        target = self._folder / f"{name}.npz"
        temporary = target.with_name(f"{name}.tmp{os.getpid()}")
        try:
            with temporary.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]
                stream.flush()
                os.fsync(stream.fileno())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)
