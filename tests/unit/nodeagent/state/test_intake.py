"""A batch is applied in short steps, and readers see one revision throughout."""

from __future__ import annotations

import pytest

from control.wire.address import SocketAddress
from control.wire.discovery import Action
from nodeagent.state import intake as module
from nodeagent.state.intake import AT_ONCE, STEP_KEYS, STEP_OBJECTS, Intake
from nodeagent.state.targets import MissingPolicy
from nodeagent.state.view import NodeState, OutOfOrderError
from nodeagent.steps import Steps, at_once
from tests.support.objects import delta, gone, policy, service, snapshot, workload

MANY = 500
WEB = workload(policies=("shop/p",))


def crowd(count: int = MANY, **changes: object) -> list[object]:
    return [
        workload(f"w-{number}", addresses=(f"10.1.{number // 250}.{number % 250}",), **changes)
        for number in range(count)
    ]


def loaded(*items: object) -> NodeState:
    view = NodeState()
    view.apply(snapshot(*items))  # type: ignore[arg-type]
    return view


def seen(view: NodeState) -> tuple[object, ...]:
    """What a connection would be decided by."""
    known = view.workload(WEB.uid)
    return (
        view.revision,
        view.policies_of(WEB),
        view.resolve(SocketAddress("10.0.0.1", 8080)),
        len(view.workloads()),
        len(view.owners("10.1.0.7")),
        known.node if known is not None else "",
        view.missing(),
        view.complete,
    )


def watched(view: NodeState, steps: Steps[object]) -> list[tuple[object, ...]]:
    """What is seen after each step."""
    views = [seen(view)]
    while True:
        try:
            next(steps)
        except StopIteration:
            return [*views, seen(view)]
        views.append(seen(view))


@pytest.mark.parametrize("size", [0, AT_ONCE // 2, MANY])
@pytest.mark.parametrize("whole", [True, False])
def test_readers_see_the_old_revision_until_they_see_the_new_one(size: int, whole: bool) -> None:
    old = [WEB, policy("p", Action.DENY), *crowd(size)]
    new = [workload(policies=("shop/p", "shop/q"), node="node-b"), policy("q"), *crowd(size, node="node-b")]
    view = loaded(*old)
    before = seen(view)
    batch = snapshot(*new, policy("p"), revision=9) if whole else delta(*new, revision=9)  # type: ignore[arg-type]
    taking = Intake(view, batch)
    views = watched(view, taking.read(batch.changes)) + watched(view, taking.commit())
    fresh = loaded(*new, policy("p", Action.DENY) if not whole else policy("p"))
    fresh.apply(delta(revision=9))
    after = seen(fresh)
    assert set(map(repr, views)) == {repr(before), repr(after)}
    assert [repr(item) for item in views] == sorted(
        (repr(item) for item in views), key=[repr(before), repr(after)].index
    )
    assert before != after


def test_a_workload_is_never_seen_with_a_policy_that_is_not_there_as_allowed() -> None:
    """Not even between the parts of a snapshot that sends the workload first and its policy last."""
    view = NodeState()
    whole = snapshot(WEB, *crowd(), policy("p"))  # type: ignore[arg-type]
    taking = Intake(view, whole)
    for start in range(0, len(whole.changes), 50):
        for _ in taking.read(whole.changes[start : start + 50]):
            assert isinstance(view.policies_of(WEB), MissingPolicy)
    for _ in taking.commit():
        assert isinstance(view.policies_of(WEB), MissingPolicy)
    assert view.policies_of(WEB) == (policy("p"),)


def test_steps_are_many_and_each_is_of_a_bounded_number_of_objects(monkeypatch: pytest.MonkeyPatch) -> None:
    view = loaded(*crowd())
    worked, biggest = 0, 0
    update, take = module.Tables.update, module.Acceptance.take

    def counted(work):  # type: ignore[no-untyped-def]
        def call(*args, **options):  # type: ignore[no-untyped-def]
            nonlocal worked
            worked += 1
            return work(*args, **options)

        return call

    monkeypatch.setattr(module.Tables, "update", counted(update))
    monkeypatch.setattr(module.Acceptance, "take", counted(take))
    batch = snapshot(*crowd(node="node-b"), revision=2)  # type: ignore[arg-type]
    taking, steps = Intake(view, batch), 0
    for work in (taking.read(batch.changes), taking.commit(), taking.dismantle()):
        for _ in work:
            biggest, worked, steps = max(biggest, worked), 0, steps + 1
    assert biggest == STEP_OBJECTS and steps > 2 * MANY / STEP_OBJECTS


def test_what_was_replaced_is_freed_in_steps_and_nobody_notices() -> None:
    view = loaded(*crowd(), WEB, policy("p"))
    batch = delta(*crowd(node="node-b"), revision=2)  # type: ignore[arg-type]
    taking = Intake(view, batch)
    at_once(taking.read(batch.changes))
    at_once(taking.commit())
    before = seen(view)
    views = watched(view, taking.dismantle())
    assert len(views) > MANY / STEP_KEYS + 10 and set(map(repr, views)) == {repr(before)}
    view.apply(delta(*(gone(item) for item in crowd()), revision=3))  # type: ignore[arg-type]
    assert view.workloads() == (WEB,)


def test_a_change_of_one_object_touches_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    view = loaded(*crowd(), service(endpoints=tuple(f"shop/w-{number}@1" for number in range(MANY))))
    tables = view.tables
    monkeypatch.setattr(module.Tables, "copy", None)
    applied = view.apply(delta(workload("w-7", addresses=("10.1.0.7",), node="node-b")))
    assert list(applied.changed) == [("workload", "shop/w-7@1")] and view.tables is tables


def test_a_batch_that_somebody_compared_follows_whatever_it_is_called() -> None:
    view = loaded(WEB)
    with pytest.raises(OutOfOrderError):
        Intake(view, delta(revision=1, instance="other"))
    at_once(Intake(view, delta(revision=1, instance="other"), compared=True).commit())
    assert view.instance == "other"
    with pytest.raises(OutOfOrderError, match="before any snapshot"):
        Intake(NodeState(), delta(), compared=True)
