"""The documentation: an OpenAPI document and a page, both made from the route tables; nothing from elsewhere."""

from __future__ import annotations

import html
import inspect
import json
from collections.abc import Sequence
from dataclasses import MISSING
from typing import Any

import orjson
from starlette.responses import Response

from zh_retrieval import __version__
from zh_retrieval.server.exchange import Incoming
from zh_retrieval.server.http.problems import own
from zh_retrieval.server.requests.request import Requests, kinds
from zh_retrieval.server.routes.route import Route

_STYLE = (
    ":root{color-scheme:light dark}"
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "pre{overflow-x:auto;padding:.6rem;border:1px solid #8888}h2{font-size:1.05rem;margin-top:2rem}code{font-size:.9em}"
)


def routes(tables: Sequence[Route], *, keys: bool, root_path: str = "") -> tuple[Route, ...]:
    """Return the routes that document others; they need no key, as they say nothing of this server's models."""
    document = orjson.dumps({**openapi(tables), "servers": [{"url": root_path or "/"}]})
    page = _page(tables, keys, root_path).encode()

    async def described(_: Incoming) -> Response:
        """Give the OpenAPI document."""
        return Response(document, media_type="application/json")

    async def shown(_: Incoming) -> Response:
        """Show this page."""
        return Response(page, media_type="text/html; charset=utf-8")

    return (
        Route("GET", "/openapi.json", described, own, public=True, work=False),
        Route("GET", "/docs", shown, own, public=True, work=False),
    )


def openapi(tables: Sequence[Route]) -> dict[str, Any]:
    """Return the OpenAPI document of the routes."""
    paths: dict[str, dict[str, Any]] = {}
    for route in tables:
        path = route.path.replace(":path", "")
        said: dict[str, Any] = {
            "summary": _summary(route),
            "responses": {"200": {"description": "The answer."}, "default": {"description": "An error."}},
        }
        if route.requests is not None:
            content = {"application/json": {"schema": _schema(route.requests), "example": dict(route.example)}}
            said["requestBody"] = {"required": True, "content": content}
        if "{id}" in path:
            said["parameters"] = [{"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}]
        if not route.public:
            said["security"] = [{"key": []}]
        paths.setdefault(path, {})[route.method.lower()] = said
    return {
        "openapi": "3.1.0",
        "info": {"title": "zh-retrieval", "version": __version__},
        "paths": paths,
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
    }


def _schema(requests: Requests) -> dict[str, Any]:
    """Return the JSON schema of a body."""
    if not isinstance(requests, type):
        return {"oneOf": [_schema(request) for request in requests.values()]}
    fields: dict[str, dict[str, Any]] = {}
    for name, (kind, default) in kinds(requests).items():
        said = {} if default in (MISSING, None) else {"default": default}
        for written in (name, *kind.also):
            about = kind.about if written == name else f"The same as {name}."
            fields[written] = {**kind.schema, **said, "description": about}
    fields |= {name: {**kind.schema, "description": kind.about} for name, kind in requests.others.items()}
    needed = [name for name, (_, default) in kinds(requests).items() if default is MISSING]
    return {"title": requests.__name__, "type": "object", "properties": fields, "required": needed}


def _summary(route: Route) -> str:
    return (inspect.getdoc(route.handler) or "").partition("\n")[0]


def _page(tables: Sequence[Route], keys: bool, root_path: str) -> str:
    key = """ -H "Authorization: Bearer $ZH_RETRIEVAL_API_KEY\"""" if keys else ""
    parts = []
    for route in tables:
        path = html.escape(route.path.replace(":path", ""))
        parts.append(f"<h2><code>{route.method} {path}</code></h2><p>{html.escape(_summary(route))}</p>")
        if route.method == "POST":
            body = json.dumps(dict(route.example), ensure_ascii=False)
            command = (
                f"curl http://HOST:PORT{root_path}{route.path}{key} -H 'Content-Type: application/json' -d '{body}'"
            )
            parts.append(f"<pre><code>{html.escape(command)}</code></pre>")
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>zh-retrieval</title><style>{_STYLE}</style>'
        f"<h1>zh-retrieval {__version__}</h1><p>Where keys are set, every request but health needs "
        "<code>Authorization: Bearer KEY</code>. Queries and documents are told apart by the model's suffix "
        "(<code>NAME-query</code>, <code>NAME-document</code>) or by <code>input_type</code>, <code>prompt_name</code> "
        "or <code>task</code>; without any, texts are documents. Scores are from 0 to 1; <code>raw_scores: true</code> "
        'gives raw ones. <a href="openapi.json">OpenAPI document</a>, <a href="./">playground</a></p>'
        + "".join(parts)
        + "</html>"
    )
