"""The three HTTP applications. What they show is given to them as functions; they hold nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from nodeagent.lifecycle import Lifecycle

Document = Callable[[], Awaitable[Any]]
"""Gives the JSON value of one ``/debug`` page."""
Renderer = Callable[[str], Awaitable[tuple[bytes, str]]]
"""Gives the metrics for an Accept header: body and content type."""

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")


class LoopbackName:
    """Refuses requests that name another host: a web page that points its own name at 127.0.0.1 reads nothing."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI."""
        host = next((value.decode("latin-1") for name, value in scope.get("headers", ()) if name == b"host"), "")
        name = host.rpartition(":")[0] if host.rpartition(":")[2].isdigit() else host
        if scope["type"] == "http" and name.lower() not in LOOPBACK_NAMES:
            refusal = PlainTextResponse(f"only for {', '.join(LOOPBACK_NAMES)}\n", status_code=403)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)


def debug_app(documents: Mapping[str, Document]) -> Starlette:
    """``/debug/<name>`` for each document. Other Host names are refused, so that no web page can read it by DNS
    tricks."""

    async def index(_: Request) -> Response:
        return JSONResponse({"documents": [f"/debug/{name}" for name in documents]})

    routes = [Route("/", index), Route("/debug", index)]
    routes += [Route(f"/debug/{name}", _page(document)) for name, document in documents.items()]
    return Starlette(routes=routes, middleware=[Middleware(LoopbackName)])


def _page(document: Document) -> Callable[[Request], Awaitable[Response]]:
    async def show(_: Request) -> Response:
        return JSONResponse(await document())

    return show


def metrics_app(render: Renderer) -> Starlette:
    """``/metrics``, and the path that Istio's scrape configurations know."""

    async def show(request: Request) -> Response:
        body, content_type = await render(request.headers.get("accept", ""))
        return Response(body, headers={"content-type": content_type})

    return Starlette(routes=[Route("/metrics", show), Route("/stats/prometheus", show)])


def ready_app(lifecycle: Lifecycle) -> Starlette:
    """``/ready``: 200, or 503 and everything that is in the way. Warnings are told in both cases."""

    async def show(_: Request) -> Response:
        blockers = lifecycle.blockers
        lines = [f"blocked by {name}: {why}" for name, why in sorted(blockers.items())] or ["ready"]
        lines += [f"warning, {name}: {what}" for name, what in sorted(lifecycle.warnings.items())]
        return PlainTextResponse("\n".join(lines) + "\n", status_code=503 if blockers else 200)

    return Starlette(routes=[Route("/ready", show), Route("/healthz/ready", show)])
