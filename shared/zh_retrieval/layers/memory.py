"""Running out of memory: how to know it on every device, and how not to keep what filled it."""

from __future__ import annotations

import traceback

_SAYS = (
    "out of memory",  # CUDA, HIP, MPS and XPU, in torch's allocators and in the drivers' own words
    "can't allocate memory",  # torch's CPU allocator
    "cannot allocate memory",  # the system's ENOMEM
    "not enough memory",  # torch's CPU allocator on Windows
    "bad_alloc",
    "alloc_failed",  # cuBLAS and cuDNN
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
    return isinstance(error, RuntimeError) and (said.strip() in _ONEDNN or any(words in said for words in _SAYS))


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
