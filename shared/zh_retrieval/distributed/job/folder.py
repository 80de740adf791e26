"""The output folder: parts, which appear whole, and the manifest of the one job that they belong to."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

from zh_retrieval.distributed.job.filesystem import locate, write_whole
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError

_MANIFEST = "_manifest.json"
_LOCK = "_lock"


class PartFolder:
    """A folder, local or remote, that parts of one job are written to; a part that is there is done."""

    def __init__(self, output: str) -> None:
        """Take the path or the URI of a folder."""
        self.name = output
        self._filesystem, self._path = locate(output)
        self._lock: Any = None

    def claim(self, job: dict[str, Any], *, restart: bool) -> None:
        """Make the folder this job's; with `restart` drop what it holds of any job.

        Raises:
            ConfigError: It holds another job's parts, or other files, or another process works on it.
        """
        fs = require("pyarrow.fs")
        self._filesystem.create_dir(self._path, recursive=True)
        if isinstance(self._filesystem, fs.LocalFileSystem):
            self._take_lock()
        try:
            if restart:
                self._clear()
            self._check(json.loads(json.dumps(job, default=str)))
        except BaseException:
            self.release()
            raise

    def _take_lock(self) -> None:
        from filelock import FileLock, Timeout

        self._lock = FileLock(f"{self._path}/{_LOCK}")
        try:
            self._lock.acquire(timeout=0)  # the system lets go of it when a process ends, however it ends
        except NotImplementedError:  # a filesystem without locks: two jobs at once do the work twice, no more
            self._lock = None
        except Timeout:
            self._lock = None
            message = f"Another process is writing {self.name}. Wait for it, or choose another --output."
            raise ConfigError(message) from None

    def _clear(self) -> None:
        for name in [*self.parts(), *self._others()]:
            if name in (_MANIFEST,) or name.startswith("part-"):
                self._filesystem.delete_file(f"{self._path}/{name}")
        self._drop_temporary()

    def _check(self, job: dict[str, Any]) -> None:
        said = self._manifest()
        if said is None:
            strangers = [*self.parts(), *self._others()]
            if strangers:
                raise ConfigError(
                    f"{self.name} holds files that are no job's, such as {sorted(strangers)[0]!r}. Choose another "
                    "--output, or an empty folder."
                )
            self._write_manifest({"job": job})
        elif said.get("job") != job:
            old = said.get("job", {})
            differing = sorted(key for key in {*job, *old} if job.get(key) != old.get(key))
            raise ConfigError(
                f"{self.name} holds the parts of another job: it differs in {', '.join(differing)}. Choose another "
                "--output, or drop that job with --restart."
            )

    def agree(self, computed: dict[str, Any]) -> dict[str, Any]:
        """Return how the parts that are there were computed; if nobody has said it yet, as given."""
        said = self._manifest() or {}
        if "computed" not in said:
            said["computed"] = computed
            self._write_manifest(said)
        found: dict[str, Any] = said["computed"]
        return found

    def parts(self) -> set[str]:
        """Return the names of the parts that are there."""
        return {name for name in self._names() if name.startswith("part-") and name.endswith(".parquet")}

    def write(self, name: str, table: Any) -> None:
        """Put a part under its name when it is whole.

        Raises:
            OSError: It cannot be written.
        """
        pa, parquet = require("pyarrow"), require("pyarrow.parquet")
        sink = pa.BufferOutputStream()
        parquet.write_table(table, sink)
        write_whole(self._filesystem, self._path, name, memoryview(sink.getvalue()))

    def read(self, name: str) -> Any:
        """Return a part as a table."""
        with self._filesystem.open_input_file(f"{self._path}/{name}") as stream:
            return require("pyarrow.parquet").read_table(stream)

    def release(self, *, finished: bool = False) -> None:
        """Let other processes have the folder; of a finished job only parts and manifest stay."""
        if finished:
            self._drop_temporary()
        if self._lock is not None:
            self._lock.release()
            if finished:
                with suppress(OSError):
                    self._filesystem.delete_file(f"{self._path}/{_LOCK}")

    def _drop_temporary(self) -> None:
        with suppress(OSError):
            self._filesystem.delete_dir(f"{self._path}/_temporary")

    def _names(self) -> list[str]:
        fs = require("pyarrow.fs")
        found = self._filesystem.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return [entry.base_name for entry in found if entry.type == fs.FileType.File]

    def _others(self) -> list[str]:
        parts = self.parts()
        return [name for name in self._names() if name not in parts and name != _LOCK]

    def _manifest(self) -> dict[str, Any] | None:
        fs = require("pyarrow.fs")
        if self._filesystem.get_file_info(f"{self._path}/{_MANIFEST}").type == fs.FileType.NotFound:
            return None
        with self._filesystem.open_input_file(f"{self._path}/{_MANIFEST}") as stream:
            said: dict[str, Any] = json.loads(stream.read().decode("utf-8"))
        return said

    def _write_manifest(self, said: dict[str, Any]) -> None:
        content = json.dumps(said, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace")
        write_whole(self._filesystem, self._path, _MANIFEST, content)
