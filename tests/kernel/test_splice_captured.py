"""The whole way: an enrolled process connects to a virtual address, the record names its socket, bytes are spliced."""

from __future__ import annotations

import socket
import time

import pytest

from nodeagent.splice.controller import SpliceController
from nodeagent.splice.scratch import ScratchAgent
from nodeagent.splice.splicer import Splicer, SpliceState
from tests.kernel.conftest import CLIENT_SECONDS, Family, Node, finish, setns
from tests.kernel.splicing import enter

pytestmark = pytest.mark.splice

EXCHANGES = 20


class NodeAgent(ScratchAgent):
    """In the node's network namespace, where the kernel looks for the sockets."""

    def __init__(self, node: Node, *arguments: object) -> None:
        super().__init__(*arguments)  # type: ignore[arg-type]
        self._namespace = node.lab.netns

    def run(self) -> None:
        setns(self._namespace)
        super().run()


def talk(family: Family) -> int:
    """In the enrolled process: ask and be answered; how many times."""
    with socket.socket(family.af) as client:
        client.settimeout(CLIENT_SECONDS)
        client.connect((family.address(family.virtual), 80))
        for number in range(EXCHANGES):
            client.sendall(bytes([number]))
            if client.recv(10) != bytes([number]):
                return number
        return EXCHANGES


def test_a_captured_connection_is_spliced(node: Node, family: Family) -> None:
    enter(node.lab, node.lab.cgroup("agent"))
    node.mesh((family.virtual, 80))
    stack = node.lab.stack
    controller = SpliceController(node.capture.pin_dir, node.lab.root)
    stack.callback(controller.close)
    splicer = Splicer(node.capture.pin_dir)
    stack.callback(splicer.close)
    server_listener = node.lab.listen(family.local, 8080)
    started = node.lab.start(node.app, lambda: talk(family))
    accepted, source = node.accept(family)
    record = node.flows.take(source, accepted)
    assert record is not None
    listener = source._replace(ip=family.loopback, port=accepted.getsockname()[1])
    flow = node.lab.inside(lambda: splicer.prepare(record.socket_cookie, source, listener))
    assert flow == record.socket_cookie
    dialled = node.lab.inside(lambda: socket.socket(socket.AF_INET6 if ":" in family.local else socket.AF_INET))
    stack.callback(dialled.close)
    splicer.dialling(flow, dialled.fileno())
    server = _serve(node, dialled, server_listener, (family.local, 8080))
    agent = NodeAgent(node, splicer, flow, accepted, dialled)
    stack.callback(agent.close)
    agent.start()
    for _ in range(EXCHANGES):
        server.sendall(server.recv(10))
    assert finish(started) == EXCHANGES
    server.close()
    agent.join(5)
    assert agent.state is SpliceState.ENROLLED
    counted = splicer.counters(flow)
    assert counted is not None
    assert counted.sent + agent.relayed[0] == counted.received + agent.relayed[1] == EXCHANGES
    assert agent.relayed[0] <= 4
    assert abs(counted.last_activity - time.monotonic()) < CLIENT_SECONDS
    splicer.forget(flow)
    assert splicer.counters(flow) is None


def _serve(node: Node, dialled: socket.socket, listener: socket.socket, address: tuple[str, int]) -> socket.socket:
    dialled.connect(address)
    server, _ = listener.accept()
    node.lab.stack.callback(server.close)
    server.settimeout(CLIENT_SECONDS)
    return server
