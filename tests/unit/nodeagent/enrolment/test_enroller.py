from __future__ import annotations

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from control.wire.watch import Batch, Change
from nodeagent.capture.held import Held
from nodeagent.capture.plan import Claim, DestinationPlan, Enrolment, enrol
from nodeagent.enrolment.enroller import INCOMPLETE, Changes, Enroller
from nodeagent.enrolment.waiting import Verdict, WaitOutcome, WaitRequest
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
        self.held: set[int] = set()
        self.serving = 1
        self.published: dict[int, str] = {}
        self.edition = self.heard = 0
        self.deaf = False
        self.too_many: set[int] = set()
        self.problems: tuple[str, ...] = ()
        self.inodes: dict[int, tuple[int, ...]] = {}
        self.shut: dict[int, str] = {}

    def resolve(self, local: Iterable[Workload]) -> Enrolment:
        if self.fail is not None:
            raise self.fail
        uids = {item.uid for item in local}
        found = [(cgroup, uid) for cgroup, uid in self.cgroups.items() if uid in uids]
        return enrol([Claim(workload=uid, cgroups={cgroup: Path(f"/c/{cgroup}")}) for cgroup, uid in found])

    def apply(self, enrolment: Enrolment, destinations: DestinationPlan | None = None) -> Enrolment:
        self.events.append(("kernel", dict(enrolment.cgroups)))
        self.partial = enrolment.partial
        self.held = set(enrolment.claims) - self.too_many
        if destinations is not None:
            self.events.append(("destinations", set(destinations.entries)))
        return replace(enrolment, problems=(*enrolment.problems, *self.problems))

    @property
    def changes(self) -> Changes:
        return Silent()

    def set_listeners(self, port: int, dns_port: int = 0) -> None:
        self.events.append(("listeners", port))

    def vanished(self, cgroups: Mapping[int, str]) -> dict[int, str]:
        return {cgroup: uid for cgroup, uid in cgroups.items() if cgroup in self.removed}

    def holds(self, number: int) -> bool:
        return number in self.held

    # --- the workers and places, which write into the same book ---

    def publish_enrolment(self, cgroups: Mapping[int, str]) -> int:
        if cgroups != self.published:
            self.published = dict(cgroups)
            self.edition += 1
        self.events.append(("workers", dict(cgroups)))
        if not self.deaf:
            self.heard = self.edition
        return self.edition

    def publish_departed(self, cgroups: Mapping[int, str]) -> None:
        self.events.append(("departed", dict(cgroups)))

    def inodes_of(self, cgroup: int) -> Collection[int]:
        return self.inodes.get(cgroup, ())

    def unserved(self, cgroup: int) -> str:
        return self.shut.get(cgroup, "")

    def hurry(self, cgroups: Iterable[int]) -> None:
        self.events.append(("hurry", set(cgroups)))

    def look(self, cgroups: Mapping[int, str]) -> None:
        self.events.append(("look", dict(cgroups)))

    def told(self, *kinds: str) -> list[tuple[str, object]]:
        events, self.events = self.events, []
        return [event for event in events if event[0] in kinds]


UID = workload().uid


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


def enroller(kernel: Kernel) -> Enroller:
    return Enroller(kernel, "node-a", (15001, 0), kernel, kernel, kernel.look)


def state(*items: object) -> NodeState:
    state = NodeState()
    state.apply(snapshot(*items))  # type: ignore[arg-type]
    return state


def test_nothing_is_touched_before_there_is_state(kernel: Kernel) -> None:
    kernel.serving = 0
    subject = enroller(kernel)
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
    kernel.serving = 0
    subject = enroller(kernel)
    subject.changed(state(workload()))
    subject.step()
    assert kernel.told("listeners") == []
    kernel.serving = 1
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
    known.apply(Batch(instance=known.instance, revision=99, changes=(Change(kind="workload", uid=UID, value=b"{}"),)))
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


HELD = Held((7,), 4026, "process 1")
ASKED = WaitRequest(asker="user 1", privileged=False, seconds=20)


def stage(subject: Enroller, number: int = 7) -> tuple[str, str]:
    found = subject.enrolment.document(UID)[str(number)]
    return found["stage"], found["why"]


def test_a_cgroup_is_captured_once_workers_know_it_listen_and_the_kernel_has_it(kernel: Kernel) -> None:
    subject = enroller(kernel)
    subject.changed(state(workload()))
    kernel.cgroups, kernel.deaf, kernel.too_many = {7: UID}, True, {7}
    kernel.shut[7] = "the agent does not listen in network namespace 4026 yet"
    subject.step()
    assert stage(subject) == ("found", "not every worker process knows of it yet")
    kernel.heard = kernel.edition
    subject.settle()
    assert stage(subject) == ("told", kernel.shut[7])
    kernel.shut.clear()
    subject.settle()
    assert stage(subject) == ("served", "the kernel has no entry of it yet")
    assert not subject.standing().captured
    kernel.too_many = set()
    subject.step()
    assert stage(subject) == ("captured", "")
    assert subject.standing().captured


def test_a_worker_that_serves_and_does_not_know_takes_it_back(kernel: Kernel) -> None:
    kernel.cgroups = {7: UID}
    subject = enroller(kernel)
    subject.changed(state(workload()))
    subject.step()
    assert stage(subject)[0] == "captured"
    kernel.heard = -1
    subject.settle()
    assert stage(subject)[0] == "found"
    kernel.serving = 0
    subject.settle()
    assert "no worker process accepts connections" in stage(subject)[1]


def test_that_no_entry_fits_is_the_reason(kernel: Kernel) -> None:
    kernel.cgroups, kernel.too_many = {7: UID}, {7}
    kernel.problems = ("something else", "1 cgroups cannot be enrolled: the map is full")
    subject = enroller(kernel)
    subject.changed(state(workload()))
    subject.step()
    assert stage(subject) == ("served", kernel.problems[1])


def test_another_owner_begins_anew(kernel: Kernel) -> None:
    other = workload("web-9")
    kernel.cgroups = {7: UID}
    subject = enroller(kernel)
    subject.changed(state(workload(), other))
    subject.step()
    kernel.cgroups, kernel.deaf = {7: other.uid}, True
    subject.step()
    assert subject.enrolment.document(other.uid)["7"]["stage"] == "found"


def test_whoever_waits_is_answered_by_the_change_itself(kernel: Kernel) -> None:
    """No step is taken for it: what a worker says is enough."""

    async def story() -> None:
        subject = enroller(kernel)
        subject.changed(state(workload()))
        kernel.cgroups, kernel.deaf, kernel.inodes = {7: UID}, True, {7: (4026,)}
        subject.step()
        one, all_of_it = asyncio.ensure_future(subject.wait(HELD, ASKED)), subject.wait_for_node(ASKED)
        node = asyncio.ensure_future(all_of_it)
        await asyncio.sleep(0)
        assert ("hurry", {7}) in kernel.events
        kernel.heard = kernel.edition
        for _ in range(3):
            subject.settle_soon()
        assert (await one, await node) == (Verdict(WaitOutcome.CAPTURED), Verdict(WaitOutcome.CAPTURED))
        assert (subject.looks, len(subject.waiting)) == (1, 0)

    asyncio.run(asyncio.wait_for(story(), 20))


def test_before_the_first_state_the_node_is_not_captured(kernel: Kernel) -> None:
    assert not enroller(kernel).standing().captured
