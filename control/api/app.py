"""The application: routes, errors, bounds. ``python -m control.api.app`` writes ``openapi.json`` anew."""

from __future__ import annotations

import json
from pathlib import Path

from fastapi import FastAPI
from fastapi.routing import APIRoute

from control.api import health, join, kinds, nodes, problems, resources, svids, tokens, watch
from control.api.context import Context
from control.api.transport import BodyLimit

API_VERSION = "1"
OPENAPI_FILE = Path(__file__).with_name("openapi.json")
_DESCRIPTION = (
    "Agents and operators authenticate with client certificates. Every error is application/problem+json (RFC 9457); "
    "`errors[]` names the object (`index`, `subject`) and the field."
)


def create_app(context: Context | None) -> FastAPI:
    """Make the app over these rooms; without them it can only describe itself."""
    app = FastAPI(
        title="nodemesh control",
        version=API_VERSION,
        description=_DESCRIPTION,
        docs_url=None,
        redoc_url=None,
        generate_unique_id_function=_operation_id,
        responses={"4XX": {"model": problems.Problem, "description": "A problem (RFC 9457)"}},
    )
    app.state.context = context
    for router in (
        health.router,
        join.router,
        svids.router,
        watch.router,
        nodes.router,
        tokens.router,
        resources.router,
        kinds.kind_routes(),
    ):
        app.include_router(router)
    problems.install(app)
    app.add_middleware(BodyLimit)
    return app


def _operation_id(route: APIRoute) -> str:
    return f"{'_'.join(str(tag) for tag in route.tags)}_{route.name}".replace(" ", "_")


def openapi_text() -> str:
    """Return the text of ``openapi.json``."""
    return json.dumps(create_app(None).openapi(), indent=1, sort_keys=True) + "\n"


if __name__ == "__main__":
    OPENAPI_FILE.write_text(openapi_text())
