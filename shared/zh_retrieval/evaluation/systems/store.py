"""Results on disk, by what they are made of: a second run computes only what is new, a killed one goes on."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
import zipfile
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from zh_retrieval.base import Model
from zh_retrieval.files.whole import write_whole

if TYPE_CHECKING:
    import numpy as np

ModelT = TypeVar("ModelT", bound=Model)

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


class Lazy(Generic[ModelT]):
    """A model that is opened when it is first needed."""

    def __init__(self, load: Callable[[], ModelT], stack: ExitStack) -> None:
        """Take what opens it, and what closes it."""
        self._load = load
        self._stack = stack
        self._model: ModelT | None = None

    def get(self) -> ModelT:
        """Return the open model."""
        if self._model is None:
            model = self._load()
            self._stack.enter_context(model)
            self._model = model
        return self._model


class Weights:
    """Which weights a model has, by its fingerprint; asked of the loaded model once for each content of its files."""

    def __init__(self, state: Callable[[], str | None]) -> None:
        """Take what gives a hash of the files' content; None where there are none here: a server computes."""
        self._state = state

    def fingerprint(self, store: Store, recipe: Mapping[str, Any], model: Callable[[], Model]) -> str:
        """Return `model().fingerprint`; the model is not opened where these files were asked for before."""
        shelf = store.shelf("fingerprints", recipe)
        state = self._state()
        known = shelf.load(digest([state])) if state is not None else None
        if known is not None:
            return str(known["fingerprint"])
        import numpy as np

        found = model().fingerprint
        if state is None or state == self._state():  # else somebody wrote while it was loaded
            state = self._state()
            if state is not None:
                shelf.save(digest([state]), {"fingerprint": np.array(found)})
        return found


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
            write_whole(about, lambda file: file.write_text(self._recipe, encoding="utf-8"))

        def write(file: Path) -> None:
            with file.open("wb") as stream:
                np.savez(stream, **arrays)  # type: ignore[arg-type]

        write_whole(self._folder / f"{name}.npz", write)
