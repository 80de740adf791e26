"""How many made-up inputs a property is tried with."""

import os

DEPTH = int(os.environ.get("ZH_RETRIEVAL_DEPTH", "1"))


def examples(count: int) -> int:
    """Return how often to try: `count` in `make test`, ZH_RETRIEVAL_DEPTH times as often in `make test-slow`."""
    return count * DEPTH
