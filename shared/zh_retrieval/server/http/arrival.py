"""How long the body of a request may take to come."""

from __future__ import annotations

import asyncio

from starlette.types import Message, Receive

from zh_retrieval.server.http.problems import RequestError


class Arrival:
    """ASGI's `receive`, until the body is whole within some seconds of the request's first line."""

    def __init__(self, receive: Receive, seconds: float) -> None:
        self._receive = receive
        self._seconds = seconds
        self._end = asyncio.get_running_loop().time() + seconds
        self._whole = False

    async def __call__(self) -> Message:
        """Return the next message.

        Raises:
            RequestError: 408, the body is not whole yet and the time is over.
        """
        if self._whole:
            return await self._receive()
        left = self._end - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.001, left))
        except asyncio.TimeoutError:
            raise RequestError(
                408, f"The body did not come within {self._seconds:g} s. Send it more quickly or in parts, or start "
                "the server with a higher --transfer-seconds.", "request_timeout",
            ) from None  # fmt: skip
        self._whole = not message.get("more_body", False)
        return message
