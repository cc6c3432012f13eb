"""What the manager makes of the kernel's counts and notes about workloads that leave the mesh."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import EgressMode
from nodeagent.capture.egress import Refused, Times
from nodeagent.cli.show import status_text
from nodeagent.loader.egress import EgressCounts
from nodeagent.manager.egress import ERRORS, MAX_LINES, METRIC, Egress
from nodeagent.reasons import Reason
from nodeagent.state.view import NodeState
from nodeagent.telemetry.accesslog import format_line
from nodeagent.telemetry.samples import CounterSample
from tests.support.objects import gone, snapshot, workload
from tests.support.relay import RecordingLog

CLIENT = replace(workload("client", node="node-a"), egress_mode=EgressMode.REGISTRY_ONLY)
FREE = workload("free", node="node-a")
ELSEWHERE = Refused(7, "tcp", SocketAddress("192.0.2.1", 443))


class Kernel:
    """An EgressTable in memory."""

    def __init__(self) -> None:
        self.totals: dict[int, EgressCounts] = {}
        self.notes: dict[Refused, Times] = {}

    def counts(self, cgroup_id: int) -> EgressCounts:
        return self.totals.get(cgroup_id, EgressCounts())

    def keep_only(self, cgroups: Iterable[int]) -> None:
        wanted = set(cgroups)
        self.totals = {cgroup: counts for cgroup, counts in self.totals.items() if cgroup in wanted}

    def remove(self, cgroup_id: int) -> None:
        self.totals.pop(cgroup_id, None)

    def refused(self) -> dict[Refused, Times]:
        return dict(self.notes)

    def close(self) -> None:
        pass


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def log() -> RecordingLog:
    return RecordingLog()


@pytest.fixture
def state() -> NodeState:
    state = NodeState()
    state.apply(snapshot(CLIENT, FREE))
    return state


def make(kernel: Kernel, state: NodeState, log: RecordingLog) -> Egress:
    made = Egress(kernel, state, "node-a", lambda: log)
    made.enrolled({7: CLIENT.uid})
    return made


@pytest.fixture
def egress(kernel: Kernel, state: NodeState, log: RecordingLog) -> Egress:
    return make(kernel, state, log)


def value(samples: list[CounterSample], protocol: str, outcome: str, workload: str = "client") -> float:
    (found,) = [
        s.value for s in samples
        if s.name == METRIC
        and s.labels == {"source_workload": workload, "source_workload_namespace": "shop", "protocol": protocol,
                         "outcome": outcome}
    ]  # fmt: skip
    return found


def test_a_refusal_is_a_line_that_says_who_where_and_what_to_do(
    kernel: Kernel, egress: Egress, log: RecordingLog
) -> None:
    kernel.notes[ELSEWHERE] = Times(3, 4242, 0.1)
    egress.step()
    (record,) = log.records
    line = format_line(record)
    for words in ("src.workload=client", "dst.addr=192.0.2.1:443", "reason=egress-refused", "fault=operator",
                  "3 times", "process 4242", "REGISTRY_ONLY", "ALLOW_ANY"):  # fmt: skip
        assert words in line, words


def test_a_refusal_is_told_once_and_again_when_it_happens_again(
    kernel: Kernel, egress: Egress, log: RecordingLog
) -> None:
    kernel.notes[ELSEWHERE] = Times(3, 0, 0.1)
    egress.step()
    egress.step()
    assert len(log.records) == 1
    kernel.notes[ELSEWHERE] = Times(5, 0, 0.1)
    egress.step()
    assert log.records[1].detail == "tcp, 2 times"


def test_what_the_kernel_forgot_and_noted_anew_is_told(kernel: Kernel, egress: Egress, log: RecordingLog) -> None:
    kernel.notes[ELSEWHERE] = Times(9, 0, 0.1)
    egress.step()
    kernel.notes[ELSEWHERE] = Times(1, 0, 0.1)
    egress.step()
    assert [record.detail for record in log.records] == ["tcp, 9 times", "tcp"]


def test_a_scan_of_the_world_is_a_few_lines(kernel: Kernel, egress: Egress, log: RecordingLog) -> None:
    for number in range(500):
        kernel.notes[Refused(7, "udp", SocketAddress(f"192.0.2.{number % 250}", number + 1))] = Times(2, 0, 0.1)
    egress.step()
    assert len(log.records) == MAX_LINES + 1
    assert log.records[-1].detail == f"{(500 - MAX_LINES) * 2} times, at {500 - MAX_LINES} further destinations"


def test_what_an_earlier_agent_told_of_is_not_told_again(kernel: Kernel, state: NodeState, log: RecordingLog) -> None:
    kernel.notes[ELSEWHERE] = Times(3, 0, 60.0)
    kernel.totals[7] = EgressCounts(tcp_refused=3)
    egress = make(kernel, state, log)
    egress.step()
    assert not log.records
    samples = egress.samples()
    assert value(samples, "tcp", "refused") == 3, "the kernel's count goes on"
    assert not [s for s in samples if s.name == ERRORS], "it is no error of this agent's time"


def test_counts_are_by_workload_and_outlive_its_cgroups(kernel: Kernel, egress: Egress) -> None:
    kernel.totals[7] = EgressCounts(tcp_allowed=1, tcp_refused=2, udp_refused=3, other_refused=4)
    egress.enrolled({8: CLIENT.uid})
    assert 7 not in kernel.totals
    kernel.totals[8] = EgressCounts(tcp_refused=10, udp_allowed=5)
    samples = egress.samples()
    assert value(samples, "tcp", "refused") == 12 and value(samples, "tcp", "allowed") == 1
    assert value(samples, "udp", "refused") == 3 and value(samples, "udp", "allowed") == 5
    assert value(samples, "other", "refused") == 4
    (errors,) = [s for s in samples if s.name == ERRORS]
    assert errors.value == 19 and errors.labels == {"reason": Reason.EGRESS_REFUSED.code, "fault": "operator"}


def test_counts_never_go_back(kernel: Kernel, egress: Egress) -> None:
    kernel.totals[7] = EgressCounts(tcp_refused=10)
    egress.step()
    kernel.totals[7] = EgressCounts(tcp_refused=1)  # somebody unloaded the programs
    egress.step()
    kernel.totals[7] = EgressCounts(tcp_refused=4)
    assert value(egress.samples(), "tcp", "refused") == 13


def test_a_workload_that_left_the_mesh_is_counted_no_more(kernel: Kernel, state: NodeState, egress: Egress) -> None:
    kernel.totals[7] = EgressCounts(tcp_refused=10)
    egress.step()
    state.apply(snapshot(FREE, gone(CLIENT), revision=2))
    egress.enrolled({})
    assert [s.name for s in egress.samples()] == [ERRORS]


def test_status_shows_who_is_confined_and_what_was_refused_last(kernel: Kernel, egress: Egress) -> None:
    from tests.unit.nodeagent.cli.test_show import STATUS

    kernel.notes[ELSEWHERE] = Times(3, 4242, 2.0)
    kernel.notes[Refused(7, "raw", None)] = Times(1, 0, 1.0)
    kernel.notes[Refused(99, "udp", SocketAddress("2001:db8::1", 53))] = Times(1, 1, 9.0)
    document = egress.document()
    assert document["confined"] == [CLIENT.uid]
    assert [row["destination"] for row in document["refused"]] == ["(any)", "192.0.2.1:443", "[2001:db8::1]:53"]
    assert document["refused"][2]["workload"] == "", "of a cgroup that is nobody's"
    text = status_text({**STATUS, "egress": document})
    for words in ("REGISTRY_ONLY for shop/client", "192.0.2.1:443", "4242", "raw"):
        assert words in text, words
