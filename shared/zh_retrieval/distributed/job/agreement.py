"""How a worker computes, and whether that gives the vectors of the others."""

from __future__ import annotations

from typing import Any

import numpy as np

from zh_retrieval.distributed.encoding import Encoders
from zh_retrieval.errors import InputError

_PROBE = "检索模型把文字变成向量。"
_ALIKE = 0.998  # least cosine of one text's vectors by the same weights, in any order of computing


def how_computed(encoders: Encoders) -> dict[str, Any]:
    """Return, as JSON has it, precision, length, weights (`Model.fingerprint`) and the vector of one text.

    Of a sparse model, its fingerprint; what there is none of is not in it.
    """
    found: dict[str, Any] = {}
    dense = encoders.dense
    if dense is not None:
        found |= {
            "dtype": str(dense.dtype), "max_length": dense.max_length, "fingerprint": dense.fingerprint,
            "probe": dense.encode_documents([_PROBE])[0].tolist(),
        }  # fmt: skip
    if encoders.sparse is not None:
        found["sparse"] = encoders.sparse.fingerprint
    return found


def check_alike(expected: dict[str, Any], computes: dict[str, Any]) -> None:
    """Raise InputError if two workers would give one text different vectors: other dtypes, lengths or weights."""
    for name in ("dtype", "max_length"):
        if expected.get(name) != computes.get(name):
            raise InputError(
                f"One worker computes with {name}={computes.get(name)}, others with {expected.get(name)}: their "
                f"vectors do not belong together. Say which: --{name.replace('_', '-')}."
            )
    one, other = np.array(expected.get("probe", [])), np.array(computes.get("probe", []))
    alike = one.shape == other.shape and one @ other >= _ALIKE * np.linalg.norm(one) * np.linalg.norm(other)
    if not alike or any(expected.get(name) != computes.get(name) for name in ("fingerprint", "sparse")):
        raise InputError(
            "Two workers give one text different vectors: their machines have different weights, or those in the "
            "folder are of another model. Give all of them the same, or choose another --output."
        )
