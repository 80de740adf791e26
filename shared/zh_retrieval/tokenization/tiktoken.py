"""`qwen.tiktoken` as a fast tokenizer.

Source of the pattern and the special tokens: tokenization_qwen.py of Qwen-7B.
"""

from __future__ import annotations

import base64
import binascii
from pathlib import Path
from typing import TYPE_CHECKING

from zh_retrieval.errors import CheckpointError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{number}|>" for number in range(205)))


def qwen_tokenizer(file: Path) -> Tokenizer:
    """Return the fast tokenizer of a `qwen.tiktoken` file; ids equal those of Qwen's own tokenizer.

    Every split of a token into two known tokens becomes a merge, in the order of the token's rank: that is tiktoken's
    rule. Special tokens are recognised in plain text, as the reference does.

    Raises:
        CheckpointError: The file is not a tiktoken vocabulary.
    """
    from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers

    ranks = _read_ranks(file)
    letters = _byte_letters()
    names = {token: "".join(letters[byte] for byte in token) for token in ranks}
    merges: list[tuple[int, int, int, str, str]] = []
    for token, rank in ranks.items():
        for cut in range(1, len(token)):
            left, right = ranks.get(token[:cut]), ranks.get(token[cut:])
            if left is not None and right is not None:
                merges.append((rank, left, right, names[token[:cut]], names[token[cut:]]))
    merges.sort()
    model = models.BPE(
        {names[token]: rank for token, rank in ranks.items()},
        [(left, right) for *_, left, right in merges],
        ignore_merges=True,
    )
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(name, normalized=False, special=True) for name in _SPECIALS])
    return tokenizer


def _read_ranks(file: Path) -> dict[bytes, int]:
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), 1):
        if not line:
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error) as error:
            raise CheckpointError(f"{file} line {number} is not 'base64 rank': {error}. Fetch it again.") from error
    if sorted(ranks.values()) != list(range(len(ranks))) or len(ranks) < 256:
        raise CheckpointError(f"{file} holds {len(ranks)} tokens whose ranks are not 0, 1, 2, ...: fetch it again.")
    return ranks


def _byte_letters() -> list[str]:
    """Return the printable character that byte-level BPE writes for each byte (GPT-2's table)."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = iter(range(256, 512))
    return [chr(byte) if byte in printable else chr(next(others)) for byte in range(256)]
