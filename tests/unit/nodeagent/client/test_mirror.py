from __future__ import annotations

from control.wire.watch import Batch, Change
from nodeagent.client.mirror import Mirror
from tests.support.objects import delta, gone, policy, snapshot, workload


def test_deltas_and_a_snapshot_of_them_tell_the_same() -> None:
    mirror = Mirror()
    assert not mirror.loaded
    mirror.apply(snapshot(workload(), policy(), revision=1))
    mirror.apply(delta(workload("web-1"), gone(policy()), revision=2))
    assert mirror.loaded
    assert mirror.snapshot() == snapshot(workload(), workload("web-1"), revision=2)
    assert mirror.counts() == {"workload": 2}


def test_a_snapshot_replaces_everything() -> None:
    mirror = Mirror()
    mirror.apply(snapshot(workload(), revision=9))
    mirror.apply(snapshot(policy(), revision=3, instance="other"))
    assert mirror.snapshot() == snapshot(policy(), revision=3, instance="other")


def test_what_this_version_does_not_know_is_kept_as_it_came() -> None:
    strange = Change(kind="route", uid="r", value=b'{"anything":[1,null]}')
    mirror = Mirror()
    mirror.apply(Batch(instance="i", revision=1, snapshot=True, changes=(strange,)))
    assert mirror.snapshot().changes == (strange,)
