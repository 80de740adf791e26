"""The server as one ASGI app."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Any

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route as StarletteRoute
from starlette.routing import Router
from starlette.types import ASGIApp, Receive, Scope, Send

from zh_retrieval.server.auth import Keys
from zh_retrieval.server.dialects import cohere, infinity, ollama, rerank, score, similarity, tei
from zh_retrieval.server.dialects import openai as openai_routes
from zh_retrieval.server.dialects import own as own_routes
from zh_retrieval.server.exchange import Exchange, Handler, Incoming
from zh_retrieval.server.http.arrival import Arrival
from zh_retrieval.server.http.body import Bodies
from zh_retrieval.server.http.problems import RequestError, answer, openai, own, problem
from zh_retrieval.server.models.ids import Models
from zh_retrieval.server.models.served import named
from zh_retrieval.server.operation.health import Health
from zh_retrieval.server.operation.metrics import Metrics
from zh_retrieval.server.routes import documentation as pages
from zh_retrieval.server.routes import operation, playground
from zh_retrieval.server.routes.route import Route
from zh_retrieval.server.running import Running
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
            if self.settings.root_path:  # Starlette matches what comes after it, if the path begins with it
                scope = {**scope, "root_path": self.settings.root_path}
            await self._router(scope, Arrival(receive, self.settings.transfer_seconds), send)
        else:  # a WebSocket
            await send({"type": "websocket.close", "code": 1000})

    async def start(self) -> None:
        """Begin to load the models, which goes on in the background.

        Raises:
            ZhRetrievalError: The settings make no sense.
        """
        served = list(named(self.settings))
        settings = self.settings
        bodies = Bodies(settings.max_body_bytes, settings.max_pending_bytes)
        health = Health(served, settings.max_wait)
        metrics = Metrics(served, lambda: health.why_not_ready is None)
        running = Running(settings, Models(served), Keys(settings.keys), health, metrics, bodies)
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

    def connection_refused(self) -> None:
        """Count a connection that the host refused, which asked for nothing yet."""
        if self._running is not None:
            self._running.metrics.refused("too_many_connections")

    @property
    def busy(self) -> bool:
        """Return True while requests are under way."""
        return self.under_way > 0

    @property
    def under_way(self) -> int:
        """Return how many requests are under way."""
        return 0 if self._running is None else self._running.under_way

    @property
    def why_not_ready(self) -> str | None:
        """Return what is wrong; None for nothing."""
        return "The server was not started." if self._running is None else self._running.health.why_not_ready

    async def stop(self) -> None:
        """Free the models."""
        if self._running is not None:
            self._running.close()
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


def routes_of(settings: Settings) -> tuple[Route, ...]:
    """Return every route."""
    dialects = (
        *own_routes.ROUTES, *openai_routes.ROUTES, *tei.ROUTES, *similarity.ROUTES, *rerank.ROUTES, *score.ROUTES,
        *cohere.ROUTES, *infinity.ROUTES, *ollama.ROUTES,
    )  # fmt: skip
    documented = (*dialects, *operation.routes(public_metrics=settings.public_metrics))
    return (
        *documented,
        *pages.routes(documented, keys=bool(settings.keys), root_path=settings.root_path),
        *playground.ROUTES,
    )


def _router(running: Running) -> ASGIApp:
    settings = running.settings
    by_path: dict[str, dict[str, Exchange]] = {}
    for route in routes_of(settings):
        exchange = Exchange(
            route.path, route.handler, route.requests, route.error_format, running, public=route.public, work=route.work
        )
        by_path.setdefault(route.path, {})[route.method] = exchange
    routes = [StarletteRoute(path, _Methods(exchanges, running)) for path, exchanges in by_path.items()]
    router: ASGIApp = Router(routes, default=_refusing(_nothing_there, running), redirect_slashes=False)
    if settings.cors_origins:
        router = CORSMiddleware(
            router, settings.cors_origins, allow_methods=("GET", "POST"), max_age=3600,
            allow_headers=("Authorization", "Content-Type", "Content-Encoding", "X-Request-Id"),
            expose_headers=("X-Request-Id", "X-Truncated", "X-Side", "Retry-After", "Server-Timing"),
        )  # fmt: skip
    return router


class _Methods:
    """What answers at one path, by method."""

    def __init__(self, exchanges: Mapping[str, Exchange], running: Running) -> None:
        self._exchanges = dict(exchanges)
        if "GET" in exchanges:
            self._exchanges["HEAD"] = exchanges["GET"]
        self._other = _refusing(self._refused, running)
        self._allowed = ", ".join(sorted([*self._exchanges, "OPTIONS"]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._exchanges.get(scope["method"], self._other)(scope, receive, send)

    async def _refused(self, incoming: Incoming) -> Response:
        if incoming.scope["method"] == "OPTIONS":
            return Response(status_code=204, headers={"allow": self._allowed})
        error = RequestError(
            405, f"{incoming.scope['method'][:20]} is not answered here: {self._allowed} are.", "method"
        )
        refusal = answer(problem(error, 1), openai)
        refusal.headers["allow"] = self._allowed
        return refusal


def _refusing(handler: Handler, running: Running) -> Exchange:
    return Exchange("other", handler, None, openai, running, public=True, work=False)


async def _nothing_there(incoming: Incoming) -> Response:
    method, path = incoming.scope["method"][:20], incoming.scope["path"][:100]
    error = RequestError(404, f"There is nothing at {method} {path}. See /docs.", "not_found")
    error.error_format = own if path.startswith("/v1/zh-retrieval") else openai
    raise error
