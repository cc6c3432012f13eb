from __future__ import annotations

from collections.abc import Iterable, Mapping

import pytest

from control.wire.address import packed_ip
from control.wire.discovery import MtlsMode
from nodeagent.loader.abi import PortMode
from nodeagent.loader.ports import ANYWHERE, OwnKey, PortEntry, PortKey
from nodeagent.manager.plaintext import PlaintextPorts
from nodeagent.namespaces.handle import Namespace, own
from nodeagent.state.view import NodeState
from tests.support.objects import change, delta, gone, snapshot, workload


class Kernel:
    """An InboundGuard that remembers."""

    def __init__(self) -> None:
        self.ports: dict[PortKey, PortEntry] = {}
        self.own: set[OwnKey] = set()
        self.kept = self.fail = False
        self.writes = 0
        self.wrong: list[str] = []

    def guard(self, namespaces: Iterable[Namespace], *, keep: bool = False) -> list[str]:
        if self.fail:
            raise OSError("no kernel")
        return self.wrong if [n.cookie for n in namespaces] == [own().cookie] else ["elsewhere"]

    def apply(self, ports: Mapping[PortKey, PortEntry], owned: set[OwnKey], *, keep: bool = False) -> list[str]:
        self.writes += 1
        self.kept = keep
        self.ports, self.own = dict(ports), set(owned)
        return []

    def know(self, addresses: set[bytes]) -> list[str]:
        return [] if packed_ip("127.0.0.1") in addresses else ["not even loopback"]

    def close(self) -> None:
        pass


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def ports(kernel: Kernel) -> PlaintextPorts:
    return PlaintextPorts(kernel, "node-a", lambda _: (own(),), frozenset())


def state_of(*items: object) -> NodeState:
    state = NodeState()
    state.apply(snapshot(*items))  # type: ignore[arg-type]
    return state


def mode(kernel: Kernel) -> int | None:
    entry = kernel.ports.get(PortKey(own().cookie, ANYWHERE, 8080))
    return None if entry is None else entry.mode


def test_before_any_state_nothing_is_touched(kernel: Kernel, ports: PlaintextPorts) -> None:
    ports.step()
    ports.changed(NodeState())
    ports.step()
    assert kernel.writes == 0


def test_the_kernel_follows_the_state(kernel: Kernel, ports: PlaintextPorts) -> None:
    state = state_of(workload(), workload("away", node="node-b", ports=(9,)))
    ports.changed(state)
    ports.enrolled({5: workload().uid})
    ports.step()
    assert mode(kernel) == PortMode.PERMISSIVE and kernel.own == {
        OwnKey(5, own().cookie, at, 8080) for at in (ANYWHERE, *map(packed_ip, workload().addresses))
    }
    assert {key.port for key in kernel.ports} == {8080}, "another node's workloads are none of this one's business"
    state.apply(delta(workload(mtls_mode=MtlsMode.STRICT)))
    ports.changed(state)
    ports.step()
    assert mode(kernel) == PortMode.STRICT
    state.apply(delta(gone(workload()), revision=3))
    ports.changed(state)
    ports.step()
    assert mode(kernel) is None and not kernel.kept


def test_what_cannot_be_read_lets_nothing_go(kernel: Kernel, ports: PlaintextPorts) -> None:
    state = state_of(workload())
    state.apply(delta(change(workload("web-1"), ports="all of them")))
    ports.changed(state)
    ports.step()
    assert kernel.kept


def test_nothing_is_written_twice(kernel: Kernel, ports: PlaintextPorts) -> None:
    ports.changed(state_of(workload()))
    for _ in range(3):
        ports.enrolled({5: workload().uid})
        ports.step()
    assert kernel.writes == 1
    ports.enrolled({})
    ports.step()
    assert kernel.writes == 2 and kernel.own == set()


def test_what_is_wrong_is_told(kernel: Kernel) -> None:
    ports = PlaintextPorts(kernel, "node-a", lambda _: (), frozenset())
    ports.changed(state_of(workload()))
    ports.step()
    assert ports.problems == (), "the agent's own namespace is guarded, whoever lives elsewhere"
    kernel.wrong = ["no room"]
    ports.step()
    assert ports.problems == ("no room",)
    assert ports.document() == {"entries": {}, "problems": ["no room"]}
