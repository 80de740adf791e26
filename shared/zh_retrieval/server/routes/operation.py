"""What those ask who run the server."""

from __future__ import annotations

import orjson
from starlette.responses import Response

from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import own
from zh_retrieval.server.operation import metrics
from zh_retrieval.server.routes.route import Route


async def livez(incoming: Incoming) -> Response:
    """Say that the process answers: 200, or 503 where a model hangs that only a new process frees."""
    reason = incoming.running.health.why_dead
    if reason is not None:
        return Response(orjson.dumps({"status": "dead", "reason": reason}), 503, media_type="application/json")
    return Response(b'{"status":"ok"}', media_type="application/json")


async def readyz(incoming: Incoming) -> Response:
    """Say whether the models are loaded and have proved right: 200, or 503 with the reason."""
    reason = incoming.running.health.why_not_ready
    if reason is None:
        return Response(b'{"status":"ok"}', media_type="application/json")
    body = orjson.dumps({"status": "not ready", "reason": reason})
    return Response(body, 503, {"retry-after": "1"}, "application/json")


async def measured(incoming: Incoming) -> Response:
    """Give the metrics in Prometheus's text format."""
    return Response(incoming.running.metrics.text(), media_type=metrics.CONTENT_TYPE)


def routes(*, public_metrics: bool) -> tuple[Route, ...]:
    """Return the routes; health never needs a key."""
    return (
        Route("GET", "/livez", livez, own, public=True, work=False),
        Route("GET", "/readyz", readyz, own, public=True, work=False),
        Route("GET", "/health", readyz, own, public=True, work=False),
        Route("GET", "/ping", readyz, own, public=True, work=False),
        Route("GET", "/metrics", measured, own, public=public_metrics, work=False),
    )
