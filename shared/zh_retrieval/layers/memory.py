"""Running out of memory: how to know it on every device, and how not to keep what filled it."""

from __future__ import annotations

import re
import traceback

_SAYS = re.compile(
    "|".join(
        (
            r"out.?of.?(\w+.)?memory",  # CUDA, HIP, MPS and XPU, in torch's allocators and by the names of their errors
            r"(can't|cannot|can ?not|could not|couldn't|failed to|unable to) (re)?alloc",  # torch, OpenVINO, the system
            r"(not enough|insufficient|no more) (\w+ )?memory",  # torch's CPU allocator on Windows
            r"memory ?allocation|allocation (error|fail)|failed allocation",  # CUDA's and HIP's names
            r"bad_?(array_)?(new_length|alloc)",
            r"alloc_?failed",  # cuBLAS and cuDNN
            r"broken promise",  # OpenVINO: another thread that was to prepare a part had no memory
        )
    )
)
_ONEDNN = ("could not create a primitive", "could not create a memory object", "could not execute a primitive")


def is_out_of_memory(error: BaseException) -> bool:
    """Return True if an error says that memory ran out, on whatever device.

    oneDNN says no more than what it could not do; at what worked with other sizes, memory is what is missing. An
    operator that it does not have is another message, which goes on after these words.
    """
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":  # torch's own
        return True
    said = str(error).lower()
    return isinstance(error, RuntimeError) and (said.strip() in _ONEDNN or _SAYS.search(said) is not None)


def release_frames(error: BaseException) -> None:
    """Empty the frames that an error remembers, and those of its causes; the lines stay for the traceback.

    Tensors in them would otherwise keep their memory for as long as somebody keeps the error.
    """
    seen: set[int] = set()
    following: BaseException | None = error
    while following is not None and id(following) not in seen:
        seen.add(id(following))
        traceback.clear_frames(following.__traceback__)
        following = following.__cause__ or following.__context__
