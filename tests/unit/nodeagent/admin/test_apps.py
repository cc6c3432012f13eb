from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from starlette.applications import Starlette

from nodeagent.admin.apps import debug_app, metrics_app, ready_app
from nodeagent.admin.server import LOOPBACK, AdminError, AdminServer, bind
from nodeagent.lifecycle import Lifecycle, Phase


def get(app: Starlette, path: str, **headers: str) -> httpx.Response:
    async def run() -> httpx.Response:
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1:15000") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(run())


async def document() -> Any:
    return {"a": [1]}


async def nothing(accept: str) -> tuple[bytes, str]:
    return f"accept={accept}".encode(), "text/plain; version=1.0.0; charset=utf-8"


def test_a_document_is_json_and_the_index_names_it() -> None:
    app = debug_app({"state": document})
    assert get(app, "/debug/state").json() == {"a": [1]}
    assert get(app, "/debug").json() == {"documents": ["/debug/state"]}
    assert get(app, "/debug/other").status_code == 404


@pytest.mark.parametrize("host", ["127.0.0.1", "127.0.0.1:15000", "localhost:15000", "[::1]:15000", "LOCALHOST"])
def test_this_host_may_ask(host: str) -> None:
    assert get(debug_app({"state": document}), "/debug/state", host=host).status_code == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:15000", "127.0.0.1.evil.example", "", "10.0.0.1:15000"])
def test_a_page_that_names_another_host_reads_nothing(host: str) -> None:
    answer = get(debug_app({"state": document}), "/debug/state", host=host)
    assert answer.status_code == 403
    assert "a" not in answer.headers
    assert answer.text.startswith("only for")


def test_nothing_can_be_written() -> None:
    async def run() -> int:
        transport = httpx.ASGITransport(app=debug_app({"state": document}))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            return (await client.post("/debug/state")).status_code

    assert asyncio.run(run()) == 405


@pytest.mark.parametrize("path", ["/metrics", "/stats/prometheus"])
def test_metrics_are_rendered_as_the_scraper_asks(path: str) -> None:
    answer = get(metrics_app(nothing), path, accept="x/y")
    assert answer.text == "accept=x/y"
    assert answer.headers["content-type"] == "text/plain; version=1.0.0; charset=utf-8"


def test_ready_tells_what_is_in_the_way() -> None:
    lifecycle = Lifecycle()
    lifecycle.blocks("state", lambda: "nothing from control yet")
    lifecycle.warns("control", lambda: "unreachable")
    answer = get(ready_app(lifecycle), "/ready")
    assert answer.status_code == 503
    assert answer.text.splitlines() == [
        "blocked by phase: the agent is starting",
        "blocked by state: nothing from control yet",
        "warning, control: unreachable",
    ]


def test_ready_stays_true_with_a_warning() -> None:
    lifecycle = Lifecycle()
    lifecycle.advance(Phase.RUNNING)
    lifecycle.warns("control", lambda: "unreachable")
    answer = get(ready_app(lifecycle), "/ready")
    assert (answer.status_code, answer.text) == (200, "ready\nwarning, control: unreachable\n")


def free_port() -> int:
    """Of both families: a port that is free in one may be taken in the other."""
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as probe:
        return int(probe.getsockname()[1])


def serve(ask: Callable[[int], Awaitable[None]], hosts: tuple[str, ...]) -> None:
    async def run() -> None:
        server, port = AdminServer(), free_port()
        server.add(debug_app({"state": document}), bind(hosts, port, "ports.admin"))
        task = asyncio.ensure_future(server.run())
        try:
            await ask(port)
        finally:
            server.stop()
            await task

    asyncio.run(asyncio.wait_for(run(), 20))


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_it_listens_on_loopback_of_both_families(host: str) -> None:
    async def ask(port: int) -> None:
        async with httpx.AsyncClient(trust_env=False) as client:
            answer = await client.get(f"http://{host}:{port}/debug/state")
            assert answer.json() == {"a": [1]}

    serve(ask, LOOPBACK)


def test_a_taken_port_is_named_with_its_setting() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(AdminError, match=f"port {port} of 127.0.0.1.*in use.*'ports.admin'"):
            bind(LOOPBACK, port, "ports.admin")


def test_sockets_of_a_server_that_never_ran_are_closed() -> None:
    server = AdminServer()
    sockets = bind(("127.0.0.1",), free_port(), "ports.admin")
    server.add(debug_app({}), sockets)
    server.close()
    assert all(item.fileno() == -1 for item in sockets)
