"""The server as one ASGI app."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from zh_retrieval.server.auth import Keys
from zh_retrieval.server.exchange import Exchange
from zh_retrieval.server.health import Health
from zh_retrieval.server.metrics import Metrics
from zh_retrieval.server.models import Models
from zh_retrieval.server.problems import RequestError, answer, openai, own, problem
from zh_retrieval.server.routes import openai as openai_routes
from zh_retrieval.server.routes import operation, pages, playground, rerank, score, tei
from zh_retrieval.server.routes import own as own_routes
from zh_retrieval.server.routes.route import Route
from zh_retrieval.server.running import Running
from zh_retrieval.server.served import named
from zh_retrieval.server.settings import Settings

logger = logging.getLogger(__name__)


class App:
    """Serves models over HTTP, under uvicorn, hypercorn and Ray Serve alike.

    It travels to a worker process as its settings, and loads its models when the host starts it (ASGI's lifespan).
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._running: Running | None = None
        self._router: ASGIApp | None = None

    def __reduce__(self) -> Any:
        """Travel as settings."""
        return type(self), (self.settings,)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live for as long as the host does."""
        if scope["type"] == "lifespan":
            await self._live(receive, send)
        elif scope["type"] == "http":
            if self._router is None:
                raise RuntimeError("The app was not started: the host must support ASGI's lifespan, and have it on.")
            await self._router(scope, receive, send)
        else:  # a WebSocket
            await send({"type": "websocket.close", "code": 1000})

    async def start(self) -> None:
        """Begin to load the models, which goes on in the background.

        Raises:
            ZhRetrievalError: The settings make no sense.
        """
        served = list(named(self.settings))
        running = Running(self.settings, Models(served), Keys(self.settings.keys), Health(served), Metrics(served))
        self._running, self._router = running, _router(running)
        running.health.start()

    async def ready(self) -> None:
        """Wait until all models are loaded and proved right; raise what kept one from it."""
        assert self._running is not None
        await self._running.health.ended()

    def drain(self) -> None:
        """Take no more work; what was taken is finished."""
        if self._running is not None:
            self._running.health.drain()

    @property
    def busy(self) -> bool:
        """Return True while requests are under way."""
        return self._running is not None and self._running.flying > 0

    @property
    def why_not_ready(self) -> str | None:
        """Return what is wrong; None for nothing."""
        return "The server was not started." if self._running is None else self._running.health.why_not_ready

    async def stop(self) -> None:
        """Free the models."""
        if self._running is not None:
            await self._running.health.close()

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
            if self.settings.start == "complete":
                await self.ready()
        except Exception as error:
            logger.error("The server cannot start: %s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.startup.complete"})
        try:
            await receive()
        except asyncio.CancelledError:  # the host ends at once
            return
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})


def tables(settings: Settings) -> tuple[Route, ...]:
    """Return every route."""
    dialects = (*own_routes.ROUTES, *openai_routes.ROUTES, *tei.ROUTES, *rerank.ROUTES, *score.ROUTES)
    documented = (*dialects, *operation.routes(public_metrics=settings.public_metrics))
    return (*documented, *pages.routes(documented), *playground.ROUTES)


def _router(running: Running) -> ASGIApp:
    settings = running.settings
    routes = [_mounted(route, running) for route in tables(settings)]
    router: ASGIApp = Router(routes, default=_NotFound(running), redirect_slashes=False)
    if settings.cors_origins:
        router = CORSMiddleware(
            router, settings.cors_origins, allow_methods=("GET", "POST"), max_age=3600,
            allow_headers=("Authorization", "Content-Type", "Content-Encoding", "X-Request-Id"),
            expose_headers=("X-Request-Id", "X-Truncated", "X-Side", "Retry-After", "Server-Timing"),
        )  # fmt: skip
    return router


def _mounted(route: Route, running: Running) -> StarletteRoute:
    exchange = Exchange(route.path, route.handler, route.dialect, running, public=route.public, work=route.work)
    return StarletteRoute(route.path, exchange, methods=[route.method])


class _NotFound:
    """Answers where there is no route."""

    def __init__(self, running: Running) -> None:
        self._running = running

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = Request(scope).url.path[:100]
        error = RequestError(404, f"There is nothing at {scope['method']} {path}. See /docs.", "not_found")
        response: Response = answer(problem(error, 1), own if path.startswith("/v1/zh-retrieval") else openai, {})
        self._running.metrics.requests.labels("other", "404").inc()
        await response(scope, receive, send)
