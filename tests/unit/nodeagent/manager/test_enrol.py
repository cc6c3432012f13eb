from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from control.wire.watch import Batch, Change
from nodeagent.capture.plan import Claim, Destinations, Enrolment, enrol
from nodeagent.manager.enrol import INCOMPLETE, Changes, Enroller
from nodeagent.state.view import NodeState
from tests.support.objects import delta, service, snapshot, workload


class Silent:
    """Changes of which nobody is told: these tests take steps by hand."""

    def fileno(self) -> int:
        raise AssertionError("not used")

    def drain(self) -> None:
        raise AssertionError("not used")


class Kernel:
    """A Capture that writes down what happens, in order, together with what the workers hear."""

    def __init__(self) -> None:
        self.cgroups: dict[int, str] = {}
        self.events: list[tuple[str, object]] = []
        self.fail: Exception | None = None
        self.partial = False
        self.removed: set[int] = set()

    def resolve(self, local: Iterable[Workload]) -> Enrolment:
        if self.fail is not None:
            raise self.fail
        uids = {item.uid for item in local}
        found = [(cgroup, uid) for cgroup, uid in self.cgroups.items() if uid in uids]
        return enrol([Claim(workload=uid, cgroups={cgroup: Path(f"/c/{cgroup}")}) for cgroup, uid in found])

    def apply(self, enrolment: Enrolment, destinations: Destinations | None = None) -> Enrolment:
        self.events.append(("kernel", dict(enrolment.cgroups)))
        self.partial = enrolment.partial
        if destinations is not None:
            self.events.append(("destinations", set(destinations.entries)))
        return enrolment

    @property
    def changes(self) -> Changes:
        return Silent()

    def set_listeners(self, port: int, dns_port: int = 0) -> None:
        self.events.append(("listeners", port))

    def vanished(self, cgroups: dict[int, str]) -> dict[int, str]:
        return {cgroup: uid for cgroup, uid in cgroups.items() if cgroup in self.removed}

    def mourn(self, cgroups: Mapping[int, str]) -> None:
        self.events.append(("departed", dict(cgroups)))

    def look(self, cgroups: Mapping[int, str]) -> None:
        self.events.append(("look", dict(cgroups)))

    def hear(self, cgroups: dict[int, str]) -> None:
        self.events.append(("workers", cgroups))

    def told(self, *kinds: str) -> list[tuple[str, object]]:
        events, self.events = self.events, []
        return [event for event in events if event[0] in kinds]


UID = workload().uid


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def enroller(kernel: Kernel, *, serving: bool = True) -> Enroller:
    return Enroller(
        kernel, "node-a", (15001, 0), kernel.hear, lambda: serving, departed=kernel.mourn, after=kernel.look
    )


def state(*items: object) -> NodeState:
    state = NodeState()
    state.apply(snapshot(*items))  # type: ignore[arg-type]
    return state


def test_nothing_is_touched_before_there_is_state(kernel: Kernel) -> None:
    subject = enroller(kernel, serving=False)
    subject.step()
    subject.changed(NodeState())
    subject.step()
    assert kernel.events == []


def test_workers_hear_of_a_cgroup_before_the_kernel_captures_it(kernel: Kernel) -> None:
    subject = enroller(kernel)
    subject.changed(state(workload()))
    subject.step()
    kernel.told()
    kernel.cgroups = {7: UID}
    subject.step()
    assert kernel.told("workers", "kernel")[:2] == [("workers", {7: UID}), ("kernel", {7: UID})]


def test_a_cgroup_that_goes_is_known_to_workers_until_the_kernel_lets_it_go(kernel: Kernel) -> None:
    kernel.cgroups = {7: UID}
    subject = enroller(kernel)
    subject.changed(state(workload()))
    subject.step()
    kernel.told()
    kernel.cgroups = {}
    subject.step()
    assert kernel.told("workers", "kernel") == [("workers", {7: UID}), ("kernel", {}), ("workers", {})]


def test_connections_are_sent_to_the_port_only_once_a_worker_listens(kernel: Kernel) -> None:
    serving = False
    subject = Enroller(
        kernel, "node-a", (15001, 0), kernel.hear, lambda: serving, departed=kernel.mourn, after=kernel.look
    )
    subject.changed(state(workload()))
    subject.step()
    assert kernel.told("listeners") == []
    serving = True
    for _ in range(3):
        subject.step()
    assert kernel.told("listeners") == [("listeners", 15001)]


def test_destinations_are_written_when_the_state_changes_and_not_at_each_scan(kernel: Kernel) -> None:
    subject = enroller(kernel)
    mesh = state(workload(), service())
    subject.changed(mesh)
    subject.step()
    everything = {SocketAddress("10.0.0.1", 8080), SocketAddress("240.240.0.10", 80)}
    assert kernel.told("destinations") == [("destinations", everything)]
    subject.step()
    assert kernel.told("destinations") == []
    mesh.apply(delta(service("db", addresses=("240.240.0.11",))))
    subject.changed(mesh)
    subject.step()
    assert kernel.told("destinations") == [("destinations", everything | {SocketAddress("240.240.0.11", 80)})]


def test_only_workloads_of_this_node_are_captured(kernel: Kernel) -> None:
    other = workload("web-9", node="node-b")
    kernel.cgroups = {7: UID, 8: other.uid}
    subject = enroller(kernel)
    subject.changed(state(workload(), other))
    subject.step()
    assert subject.cgroups == {7: UID}


def test_a_failed_step_is_done_again_with_everything(kernel: Kernel) -> None:
    subject = enroller(kernel)
    subject.changed(state(workload()))
    kernel.fail = OSError("cgroup file system is gone")
    with pytest.raises(OSError, match="gone"):
        subject.step()
    kernel.fail = None
    subject.step()
    assert kernel.told("destinations") == [("destinations", {SocketAddress("10.0.0.1", 8080)})]


def test_what_is_captured_stays_while_control_says_something_unreadable(kernel: Kernel) -> None:
    kernel.cgroups = {7: UID}
    enrolling = enroller(kernel)
    known = state(workload())
    enrolling.changed(known)
    enrolling.step()
    known.apply(Batch(instance=known.instance, revision=99, changes=(Change(kind="workload", uid=UID, value={}),)))
    enrolling.changed(known)
    enrolling.step()
    assert kernel.partial
    assert INCOMPLETE in enrolling.problems


def test_workers_hear_of_a_cgroup_that_was_removed_and_not_of_one_that_was_let_go(kernel: Kernel) -> None:
    kernel.cgroups = {7: UID, 8: UID}
    subject = enroller(kernel)
    subject.changed(state(workload()))
    subject.step()
    kernel.told()
    kernel.cgroups, kernel.removed = {}, {7}
    subject.step()
    assert kernel.told("workers", "departed", "look")[-3:] == [("workers", {}), ("departed", {7: UID}), ("look", {})]
