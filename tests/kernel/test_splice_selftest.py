"""The self-test on this kernel, and what a failure of it switches off."""

from __future__ import annotations

import pytest

from nodeagent.splice import selftest_run
from nodeagent.splice.selftest import Item, Result, SelfTest
from tests.kernel.conftest import FAMILIES, Lab
from tests.kernel.splicing import SpliceLab
from tests.support.pace import patient


@pytest.mark.splice
def test_everything_passes_on_this_kernel(lab: Lab) -> None:
    splice = SpliceLab(lab)
    found = selftest_run.run(splice.pins.path, lab.root)
    print("\n".join(f"{item.name:20} {item.result:14} {item.milliseconds:6} ms {item.detail}" for item in found.items))
    assert [item for item in found.items if item.result is Result.FAIL] == []
    assert found.off == ""
    assert len(found.items) == 20
    assert sum(item.milliseconds for item in found.items) < patient(3000)  # it takes about 500; this machine is shared
    assert list(lab.root.glob("nodemesh-selftest-*")) == []
    splice.controller.sweep()
    assert splice.controller.status().flows == 0
    assert splice.controller.queued() == 0


@pytest.mark.splice
def test_what_it_says_when_the_splice_is_stopped(lab: Lab) -> None:
    splice = SpliceLab(lab)
    splice.controller.switch(on=False)
    assert "bulk" in selftest_run.run(splice.pins.path, lab.root).off


def test_what_a_failure_means() -> None:
    passed = Item("bulk", Result.PASS)
    assert SelfTest((passed, Item("peek", Result.FAIL, "why")), 1.0).off == "the self-test failed: peek: why"
    assert SelfTest((passed, Item("bulk-v6", Result.ABSENT, "no IPv6")), 1.0).off == ""
    fionread = SelfTest((passed, Item("fionread", Result.FAIL, "0, not 4")), 1.0)
    assert fionread.off == ""
    assert fionread.guard_fionread
    assert SelfTest((), 1.0).off


@pytest.mark.splice
def test_the_controller_obeys_it(lab: Lab) -> None:
    splice = SpliceLab(lab)
    splice.controller.obey(SelfTest((Item("bulk", Result.FAIL, "x"),), 1.0))
    status = splice.controller.status()
    assert not status.running
    assert "bulk" in status.reason
    splice.controller.switch(on=True)  # an operator cannot overrule it
    assert not splice.controller.status().running
    splice.controller.obey(SelfTest((Item("bulk", Result.PASS), Item("fionread", Result.PASS)), 1.0))
    splice.controller.switch(on=True)
    with splice.spliced(FAMILIES[0]):
        assert splice.controller.status().running
