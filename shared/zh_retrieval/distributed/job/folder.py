"""The output folder: parts, which appear whole, and the manifest of the one job that they belong to."""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

from zh_retrieval.distributed.job.filesystem import locate, write_whole
from zh_retrieval.distributed.resources import require
from zh_retrieval.errors import ConfigError

_MANIFEST = "_manifest.json"
_LOCK = "_lock"
_TEMPORARY = "_temporary"
_SHARED_WITHIN = 10.0  # seconds in which a file of one machine is seen by another: NFS keeps what it knows for a while


class PartFolder:
    """A folder, local or remote, that parts of one job are written to; a part that is there is done."""

    def __init__(self, output: str) -> None:
        """Take the path or the URI of a folder."""
        self.name = output
        self._filesystem, self._path = locate(output)
        self._lock: Any = None

    def claim(self, job: dict[str, Any], *, restart: bool) -> str:
        """Make the folder this job's, with `restart` drop what it holds of any job, and return this run's mark.

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
            mark = f"run-{uuid.uuid4().hex}"
            write_whole(self._filesystem, self._path, f"{_TEMPORARY}/{mark}", b"")
        except BaseException:
            self.release()
            raise
        return mark

    def check_mark(self, mark: str) -> None:
        """Raise ConfigError unless this process sees the folder that `claim` returned the mark of."""
        fs, end = require("pyarrow.fs"), time.monotonic() + _SHARED_WITHIN
        while self._filesystem.get_file_info(f"{self._path}/{_TEMPORARY}/{mark}").type == fs.FileType.NotFound:
            if time.monotonic() > end:
                raise ConfigError(
                    f"{self.name} is not the folder of that name where the command runs, which would not see the "
                    "parts. Give an --output that all machines share, such as a network folder or s3://BUCKET/FOLDER."
                )
            time.sleep(0.5)

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
        if self.manifest() is not None:  # else the files are none of ours, whatever their names
            self.drop(name for name in self.parts() if name.startswith("part-"))
            self._filesystem.delete_file(f"{self._path}/{_MANIFEST}")
            self._drop_temporary()

    def _check(self, job: dict[str, Any]) -> None:
        manifest, parts = self.manifest(), self.parts()
        strangers = self._others() - {_MANIFEST} if manifest else {*parts, *self._others()}
        if manifest is None and strangers:
            raise ConfigError(
                f"{self.name} holds files that are no job's, such as {min(strangers)!r}. Choose another --output, or "
                "an empty folder."
            )
        if manifest is None or (not parts and manifest.get("job") != job):  # of a start that failed, nothing is lost
            self._write_manifest({"job": job, "finished": False})
        elif manifest.get("job") != job:
            old = manifest.get("job", {})
            differing = sorted(key for key in {*job, *old} if job.get(key) != old.get(key))
            raise ConfigError(
                f"{self.name} holds the parts of another job: it differs in {', '.join(differing)}. Choose another "
                "--output, or drop that job with --restart."
            )

    def agree(self, computed: dict[str, Any]) -> dict[str, Any]:
        """Return how the parts that are there were computed; if there are none, as given."""
        manifest = self.manifest() or {}
        if "computed" not in manifest or not self.parts():
            manifest["computed"] = json.loads(json.dumps(computed))
            self._write_manifest(manifest)
        found: dict[str, Any] = manifest["computed"]
        return found

    @property
    def identity(self) -> str:
        """Return `identity_of` its manifest."""
        return identity_of(self.manifest())

    def mark_finished(self, finished: bool) -> None:
        """Say in the manifest whether all parts are there, for those who make an index of them."""
        manifest = self.manifest()
        if manifest is not None and manifest.get("finished") != finished:
            self._write_manifest({**manifest, "finished": finished})

    def parts(self) -> set[str]:
        """Return the names of the parts that are there: all Parquet files of the folder itself."""
        return {name for name in self._names() if name.endswith(".parquet") and name[0] not in "._"}

    def drop(self, parts: Iterable[str]) -> None:
        """Delete parts."""
        for name in parts:
            self._filesystem.delete_file(f"{self._path}/{name}")

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
            self.mark_finished(True)
            self._drop_temporary()
        if self._lock is not None:
            self._lock.release()
            if finished:
                with suppress(OSError):
                    self._filesystem.delete_file(f"{self._path}/{_LOCK}")

    def _drop_temporary(self) -> None:
        with suppress(OSError):
            self._filesystem.delete_dir(f"{self._path}/{_TEMPORARY}")

    def _names(self) -> list[str]:
        fs = require("pyarrow.fs")
        found = self._filesystem.get_file_info(fs.FileSelector(self._path, allow_not_found=True))
        return [entry.base_name for entry in found if entry.type == fs.FileType.File]

    def _others(self) -> set[str]:
        return {*self._names()} - self.parts() - {_LOCK}

    def manifest(self) -> dict[str, Any] | None:
        """Return what is said of the job; None in a folder that no job wrote, such as one of Ray Data."""
        fs = require("pyarrow.fs")
        if self._filesystem.get_file_info(f"{self._path}/{_MANIFEST}").type == fs.FileType.NotFound:
            return None
        with self._filesystem.open_input_file(f"{self._path}/{_MANIFEST}") as stream:
            said: dict[str, Any] = json.loads(stream.read().decode("utf-8"))
        return said

    def _write_manifest(self, said: dict[str, Any]) -> None:
        content = json.dumps(said, ensure_ascii=False, indent=1).encode("utf-8", "backslashreplace")
        write_whole(self._filesystem, self._path, _MANIFEST, content)


def identity_of(manifest: dict[str, Any] | None) -> str:
    """Return what tells a folder's vectors from those of other models, weights and options; "" where nobody says it.

    Parts carry it in their names, and an index beside what is in it.
    """
    if manifest is None or "computed" not in manifest:
        return ""
    computed = {key: value for key, value in manifest["computed"].items() if key != "probe"}
    known = json.dumps([manifest["job"], computed], sort_keys=True)
    return hashlib.sha256(known.encode("utf-8", "backslashreplace")).hexdigest()[:12]
