"""Who may ask."""

from __future__ import annotations

import hashlib
import hmac
from collections.abc import Sequence

from zh_retrieval.server.http.problems import RequestError


class Keys:
    """The keys that are let in; without any, everybody is. Keeps hashes only."""

    def __init__(self, keys: Sequence[str]) -> None:
        self._digests = [_digest(key.encode()) for key in keys]

    def check(self, authorization: bytes | None) -> None:
        """Compare `Authorization: Bearer KEY` with all keys, in the same time whichever it is.

        Raises:
            RequestError: 401, for a missing, bare or wrong key.
        """
        if not self._digests:
            return
        scheme, _, given = (authorization or b"").partition(b" ")
        found = False
        for digest in self._digests:
            found |= hmac.compare_digest(digest, _digest(given))
        if scheme.lower() != b"bearer" or not found:
            said = "is missing" if not given else "is not one of this server's"
            raise RequestError(401, f"The key {said}. Send the header 'Authorization: Bearer KEY'.", "invalid_api_key")


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()
