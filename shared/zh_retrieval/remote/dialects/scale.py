"""What the scores of a server are: logits, or probabilities made of them. Known once, for all requests of a handle."""

from __future__ import annotations

from typing import Literal

import numpy as np

from zh_retrieval.errors import RemoteError

Scale = Literal["logit", "probability"]

PROBES = (
    ("中国的首都是哪里？", ("中国的首都是北京。", "猫一天睡十几个小时。")),
    ("What is tea made of?", ("Tea is made of the leaves of the tea plant.", "The train to Lyon leaves at noon.")),
)
"""Questions, each with a passage that answers it and one that does not: logits of such pairs lie far outside 0..1."""
_SURE = 1e-7  # a probability is taken to be this far from 0 and 1 at least: beyond, float32 has lost the logit


def scale_of(scores: np.ndarray) -> Scale:
    """Return what a server gives, by its scores of `PROBES`: a score outside 0..1 is no probability."""
    return "logit" if scores.min() < 0 or scores.max() > 1 else "probability"


def logits(scores: np.ndarray, scale: Scale, url: str) -> np.ndarray:
    """Return scores of a known scale as logits.

    Raises:
        RemoteError: They are said to be probabilities, and one is not.
    """
    if scale == "logit":
        return scores
    if scores.size and (scores.min() < 0 or scores.max() > 1):
        raise RemoteError(
            f"{url} gives a score outside 0..1, and its scores were taken for probabilities when it was asked first. "
            "Say score_scale='logit' if it gives logits."
        )
    sure = np.clip(scores.astype(np.float64), _SURE, 1 - _SURE)
    found: np.ndarray = np.log(sure / (1 - sure)).astype(np.float32)
    return found
