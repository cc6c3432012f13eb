"""Live flows: found by the workloads at their ends, judged again by each change, cut when they may no longer be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import Workload
from control.wire.ids import SpiffeId
from nodeagent.flows import tracker as module
from nodeagent.flows.flow import Exchange, Flow
from nodeagent.flows.tracker import Tracker
from nodeagent.policy.authorizer import Authorizer
from nodeagent.policy.connection import Connection
from nodeagent.policy.evaluate import Permit
from nodeagent.reasons import Reason
from nodeagent.state.view import NodeState
from nodeagent.steps import at_once
from nodeagent.telemetry.flow import FlowRecord, Reporter, owner_of
from nodeagent.telemetry.metrics import CLOSED, FAILED, OPENED, SENT, FlowMetrics
from tests.support.objects import delta, gone, policy, rule, snapshot, workload

pytestmark = pytest.mark.interpreted

CLIENT = workload("client", service_account="client", addresses=("10.0.0.9",))
WEB = workload()
OTHER = workload("other-0", addresses=("10.0.0.3",))


@dataclass
class FakeLeg:
    """Counts, and keeps what it was told."""

    received: int = 0
    ended: bool = False
    unsent: bool = False
    peer: object = "joined"
    told: list[object] = field(default_factory=list)

    def abort(self, reason: Reason) -> None:
        self.told.append(reason)

    def finish(self) -> None:
        self.told.append("finish")


class Played(Flow):
    """Its legs can be asked when it is over."""

    client: FakeLeg
    server: FakeLeg


class Log:
    def __init__(self) -> None:
        self.records: list[FlowRecord] = []

    def write(self, record: FlowRecord) -> None:
        self.records.append(record)


class Desk:
    """A tracker with everything around it."""

    def __init__(self) -> None:
        self.state = NodeState()
        self.state.apply(snapshot(CLIENT, WEB, OTHER))
        self.authorizer = Authorizer(self.state)
        self.metrics = FlowMetrics(lambda: 0.0)
        self.log = Log()
        self.time = 100.0
        self.tracker = Tracker(self.state, self.authorizer, self.metrics, self.log, lambda: self.time)

    def flow(self, destination=WEB, *, decided_here: bool = True) -> Played:
        record = FlowRecord(
            flow_id=self.tracker.next_id(), reporter=Reporter.SOURCE, started=self.tracker.now(), source=CLIENT,
            destination=destination, source_address=SocketAddress("10.0.0.9", 1),
        )  # fmt: skip
        flow = Played(self.tracker, record)
        flow.source, flow.destination = flow.client, flow.server = FakeLeg(), FakeLeg()
        if decided_here:
            connection = Connection(SpiffeId.parse(CLIENT.identity), "10.0.0.9", destination.addresses[0], 8080)
            permit = self.authorizer.authorize(destination, connection)
            assert isinstance(permit, Permit)
            flow.permit(destination, permit)
        self.tracker.add(flow)
        flow.establish()
        return flow

    def change(self, *items: object) -> int:
        applied = self.state.apply(delta(*items, revision=self.state.revision + 1))
        return at_once(self.tracker.recheck(applied.changed))

    def counts(self, name: str) -> float:
        return sum(sample.value for sample in self.metrics.samples() if sample.name == name)


def denied(flow: Played) -> bool:
    return flow.done and flow.client.told == flow.server.told == [flow.record.reason]


def test_a_policy_cuts_the_flows_that_it_refuses_and_no_others() -> None:
    desk = Desk()
    flow, other = desk.flow(), desk.flow(OTHER)
    assert desk.change(policy("p", policy().action, rule()), workload(policies=("shop/p",))) == 1
    assert denied(flow)
    assert flow.record.reason is Reason.POLICY_REVOKED
    assert "shop/p" in flow.record.detail
    assert not other.done
    assert list(desk.tracker.flows) == [other]


def test_a_policy_that_changes_alone_is_noticed() -> None:
    desk = Desk()
    desk.change(policy("p"), workload(policies=("shop/p",)))
    flow = desk.flow()
    assert desk.change(policy("p", policy().action, rule())) == 1
    assert denied(flow)


def test_a_policy_that_is_lost_denies() -> None:
    desk = Desk()
    desk.change(policy("p"), workload(policies=("shop/p",)))
    flow = desk.flow()
    assert desk.change(gone(policy("p"))) == 1
    assert denied(flow)


def test_a_policy_that_permits_cuts_nothing() -> None:
    desk = Desk()
    flow = desk.flow()
    assert desk.change(policy("p"), workload(policies=("shop/p",))) == 0
    assert not flow.done


def test_what_another_node_decides_is_not_judged_here() -> None:
    desk = Desk()
    flow = desk.flow(decided_here=False)
    assert desk.change(policy("p", policy().action, rule()), workload(policies=("shop/p",))) == 0
    assert not flow.done


@pytest.mark.parametrize(
    "change",
    [
        lambda: gone(CLIENT),
        lambda: gone(WEB),
        lambda: workload(node="node-b"),
        lambda: workload("client", service_account="another", addresses=("10.0.0.9",)),
    ],
    ids=["source gone", "destination gone", "moved", "another identity"],
)
@pytest.mark.parametrize("decided_here", [True, False])
def test_a_workload_that_is_no_longer_the_same_loses_its_flows(
    change: Callable[[], object], decided_here: bool
) -> None:
    desk = Desk()
    flow = desk.flow(decided_here=decided_here)
    assert desk.change(change()) == 1
    assert denied(flow)
    assert flow.record.reason is Reason.WORKLOAD_REMOVED


def test_new_labels_cut_nothing() -> None:
    desk = Desk()
    flow = desk.flow()
    assert desk.change(workload(labels={"app": "new"})) == 0
    assert not flow.done


def test_the_end_of_a_flow_is_counted_and_logged_once() -> None:
    desk = Desk()
    flow = desk.flow()
    flow.source.received, flow.destination.received = 10, 20
    desk.tracker.report_live()
    assert desk.counts(SENT) == 20
    desk.time = 101.5
    flow.source.ended = True
    flow.half_closed()
    assert not flow.done
    flow.destination.ended = flow.destination.unsent = True
    flow.half_closed()
    assert not flow.done, "the rest is not sent yet"
    flow.destination.unsent = False
    flow.half_closed()
    flow.half_closed()
    flow.lost(flow.client, Reason.SOURCE_RESET)
    flow.cut(Reason.POLICY_REVOKED)
    assert flow.client.told == flow.server.told == ["finish"]
    assert flow.source is flow.destination is None, "what is over refers to nothing"
    (record,) = desk.log.records
    assert (record.reason, record.bytes_sent, record.bytes_received, record.ended) == (Reason.OK, 10, 20, 101.5)
    assert (desk.counts(OPENED), desk.counts(CLOSED), desk.counts(FAILED), desk.counts(SENT)) == (1, 1, 0, 20)
    assert not desk.tracker._by_workload


def test_a_leg_that_is_lost_resets_the_other() -> None:
    desk = Desk()
    flow = desk.flow()
    flow.lost(flow.destination, Reason.DESTINATION_RESET, "words")
    assert flow.server.told == []
    assert flow.client.told == [Reason.DESTINATION_RESET]
    assert desk.log.records[0].detail == "words"


def test_shut_down_resets_what_is_left() -> None:
    desk = Desk()
    flows = [desk.flow(), desk.flow(OTHER)]
    empty: list[int] = []
    desk.tracker.when_empty = lambda: empty.append(1)
    assert desk.tracker.shut_down() == 2
    assert all(denied(flow) and flow.record.reason is Reason.AGENT_SHUTDOWN for flow in flows)
    assert empty == [1]
    assert desk.tracker.shut_down() == 0


def test_there_is_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr(module, "MAX_FLOWS", 2)
    desk.flow()
    assert desk.tracker.crowded("another") == ""
    desk.flow()
    assert "takes no further one" in desk.tracker.crowded("another")


def test_nobody_has_more_than_its_share_nor_more_than_is_left_for_others(monkeypatch: pytest.MonkeyPatch) -> None:
    desk = Desk()
    monkeypatch.setattr(module, "MAX_FLOWS", 10)
    flows = [desk.flow() for _ in range(4)]
    owner = owner_of(flows[0].record)
    assert desk.tracker.crowded(owner) == ""
    flows.append(desk.flow())
    assert owner in desk.tracker.crowded(owner), "five of ten: as many as are left"
    assert desk.tracker.crowded("another") == ""
    assert desk.tracker.excess.counts == {("flows_per_workload", owner): 1}
    flows[0].cut(Reason.SOURCE_RESET, "")
    assert desk.tracker.crowded(owner) == "", "what is over is given back"
    desk.tracker.shut_down()
    assert desk.tracker._held == {}


class Request(Exchange):
    """One of several requests of a connection, as layer 7 has them."""

    def __init__(self, flow: Played, destination: Workload, permit: Permit) -> None:
        super().__init__(flow, destination, permit)
        self.revoked: list[Reason] = []

    def revoke(self, reason: Reason, detail: str) -> None:
        self.revoked.append(reason)


def test_one_request_of_many_is_revoked_and_the_others_go_on() -> None:
    desk = Desk()
    flow = desk.flow(decided_here=False)
    requests = []
    for destination in (WEB, OTHER):
        connection = Connection(SpiffeId.parse(CLIENT.identity), "10.0.0.9", destination.addresses[0], 8080)
        permit = desk.authorizer.authorize(destination, connection)
        assert isinstance(permit, Permit)
        requests.append(Request(flow, destination, permit))
    flow.exchanges += requests
    assert desk.change(policy("p", policy().action, rule()), workload(policies=("shop/p",))) == 1
    assert [request.revoked for request in requests] == [[Reason.POLICY_REVOKED], []]
    assert not flow.done
