"""A disk that is slow, or full, in every process that has this folder on its path, while a file says so."""

import errno
import os
import time

_folder = os.environ.get("ZH_RETRIEVAL_TEST_FAULTS", "")
_fsync = os.fsync


def _faulty(descriptor: int) -> None:
    if os.path.exists(os.path.join(_folder, "full")):
        raise OSError(errno.ENOSPC, "No space left on device")
    _fsync(descriptor)
    if os.path.exists(os.path.join(_folder, "slow")):
        time.sleep(1.0)


if _folder:
    os.fsync = _faulty
