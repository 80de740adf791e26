"""The server's app as Ray Serve hosts it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from zh_retrieval.server.app import App
from zh_retrieval.server.settings import keys_of_environment

if TYPE_CHECKING:
    from starlette.types import Message, Receive, Scope, Send

_REQUEST_ID = b"x-request-id"


class ServeApp(App):
    """Leaves the header of the request's id to Serve, which gives requests their ids and adds it to each answer."""

    async def start(self) -> None:
        """Begin to load the models; the replica's own environment has keys, too.

        Raises:
            ZhRetrievalError: The settings make no sense, or the environment's keys.
        """
        keys = dict.fromkeys((*self.settings.keys, *keys_of_environment()))
        self.settings = replace(self.settings, keys=tuple(keys))
        await super().start()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live for as long as the host does."""

        async def without_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [header for header in message["headers"] if header[0] != _REQUEST_ID]
            await send(message)

        await super().__call__(scope, receive, without_id)
