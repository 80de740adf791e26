"""The page for trying a query against documents; it asks this server as any client does, and nothing else."""

from __future__ import annotations

from importlib.resources import files

from starlette.responses import Response

from zh_retrieval.server.exchange import Handler, Incoming
from zh_retrieval.server.http.problems import own
from zh_retrieval.server.routes.operation import readyz
from zh_retrieval.server.routes.route import Route

_TYPES = {
    "index.html": "text/html; charset=utf-8",
    "page.css": "text/css; charset=utf-8",
    "page.js": "text/javascript; charset=utf-8",
}
_HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",
    "vary": "accept",
}


def _file(name: str) -> Response:
    content = (files("zh_retrieval.server") / "playground" / name).read_bytes()
    return Response(content, headers=_HEADERS, media_type=_TYPES[name])


async def index(incoming: Incoming) -> Response:
    """Show the playground to a browser, and readiness to any other client, as TEI's `/` does."""
    if b"text/html" in incoming.headers.get(b"accept", b""):
        return _file("index.html")
    return await readyz(incoming)


def _serving(name: str) -> Handler:
    async def shown(_: Incoming) -> Response:
        return _file(name)

    return shown


ROUTES = (
    Route("GET", "/", index, own, public=True, work=False),
    *(
        Route("GET", f"/playground/{name}", _serving(name), own, public=True, work=False)
        for name in ("page.css", "page.js")
    ),
)
