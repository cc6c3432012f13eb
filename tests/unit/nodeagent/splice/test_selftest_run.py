"""How long the self-test is waited for, and what is known of one that was cut. The processes are real, time is not."""

from __future__ import annotations

import sys
import textwrap
from pathlib import Path

import pytest

from nodeagent.splice.selftest import Item, Result, SelfTest, line_of, told_by
from nodeagent.splice.selftest_run import ITEM_SECONDS, MAX_LINE_BYTES, TOTAL_SECONDS, Account, SelfTestRun

SAYS = """
    import sys, signal
    from nodeagent.splice.selftest import Item, Result, line_of
    def says(*told):
        for each in told:
            sys.stdout.write(line_of(each))
            sys.stdout.flush()
    def passes(name):
        says(name, Item(name, Result.PASS))
"""


class Clock:
    """Stands still, but jumps by ``stall`` while the trial ``hung`` is being made (or, without a name, before any)."""

    def __init__(self, hung: str = "", stall: float = 0.0) -> None:
        self.run: SelfTestRun | None = None
        self._hung, self._stall = hung, stall

    def __call__(self) -> float:
        return self._stall if self.run is not None and self.run.account.current == self._hung else 0.0


def start(child: str, scratch: Path, clock: Clock) -> SelfTestRun:
    program = textwrap.dedent(SAYS) + textwrap.dedent(child)
    clock.run = SelfTestRun([sys.executable, "-c", program], scratch, clock)
    return clock.run


def result(child: str, scratch: Path, clock: Clock | None = None) -> SelfTest:
    """What is found by a process that does this."""
    found = start(child, scratch, clock or Clock()).wait(TOTAL_SECONDS * 10)
    assert found is not None
    assert not scratch.exists(), "nothing is left"
    return found


def names(found: SelfTest) -> list[tuple[str, Result]]:
    return [(item.name, item.result) for item in found.items]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    return tmp_path / "scratch"


def test_a_trial_that_hangs_is_cut_and_named(scratch: Path) -> None:
    clock = Clock("fionread", ITEM_SECONDS)
    run = start('says("open"); passes("bulk"); says("fionread"); signal.pause()', scratch, clock)
    found = run.wait(TOTAL_SECONDS)
    assert found is not None
    assert names(found) == [("bulk", Result.PASS), ("self-test", Result.FAIL)]
    assert "self-test: the item fionread did not finish within 15 s (1 items had passed)" in found.off
    assert run._process is not None and run._process.returncode == -9
    assert not scratch.exists()


def steady(account: Account, items: int) -> float:
    """So many trials pass, each just in time; when the last did."""
    now = 0.0
    for number in range(items):
        now += ITEM_SECONDS - 1
        assert account.late(now) == ""
        account.tell((line_of(f"trial-{number}") + line_of(Item(f"trial-{number}", Result.PASS))).encode(), now)
    return now


def test_a_slow_machine_passes() -> None:
    account = Account(0.0)
    end = steady(account, 6)
    assert end > 5 * ITEM_SECONDS
    assert account.late(end) == ""
    found = account.ended(0, "", end)
    assert (found.off, found.seconds, len(found.items)) == ("", end, 6)


def test_it_is_cut_however_steady_when_all_of_it_takes_too_long() -> None:
    account = Account(0.0)
    steady(account, 6)
    account.tell(line_of("last").encode(), TOTAL_SECONDS - 1)
    assert account.patience_ends == TOTAL_SECONDS
    assert account.late(TOTAL_SECONDS - 0.1) == ""
    why = account.late(TOTAL_SECONDS)
    assert why == "it was not through within 90 s: 6 items had passed, the item last had not finished"
    assert names(account.broken(why, TOTAL_SECONDS))[-1] == ("self-test", Result.FAIL)


def test_all_that_a_process_says_is_found(scratch: Path) -> None:
    found = result('[passes(f"trial-{number}") for number in range(19)]', scratch)
    assert (found.off, len(found.items)) == ("", 19)


def test_a_process_that_never_begins_is_cut(scratch: Path) -> None:
    late = Clock(stall=ITEM_SECONDS)
    assert "its start did not finish within 15 s" in result("signal.pause()", scratch, late).off


def test_whoever_waits_may_ask_again(scratch: Path) -> None:
    run = start('says("bulk"); signal.pause()', scratch, Clock())
    assert run.wait(0) is None
    assert scratch.exists()
    run.close()
    given_up = run.wait(0)
    assert given_up is not None and "given up" in given_up.off
    assert run._process is not None and run._process.returncode == -9
    assert not scratch.exists()


@pytest.mark.parametrize(
    ("child", "why"),
    [
        ('passes("bulk"); says("peek"); sys.exit("no room")', "status 1) in the item peek: no room"),
        ('passes("bulk"); says("peek")', "its process ended in the item peek"),
        ("pass", "its process ended in its start"),
        ('print("hello", flush=True); signal.pause()', "cannot be understood"),
        ('sys.stdout.write("x" * 1000000); sys.stdout.flush(); signal.pause()', "says more than"),
    ],
)
def test_what_did_not_come_to_its_end_forbids_splicing(scratch: Path, child: str, why: str) -> None:
    assert why in result(child, scratch).off


def test_much_on_stderr_holds_nobody_up(scratch: Path) -> None:
    found = result('sys.stderr.write("x\\n" * 500000); passes("bulk"); sys.exit("the end")', scratch)
    assert found.off.endswith("the end")


def test_a_process_that_cannot_start(scratch: Path, tmp_path: Path) -> None:
    found = SelfTestRun([str(tmp_path / "nothing")], scratch).wait(0)
    assert found is not None and "did not start" in found.off
    assert not scratch.exists()
    found = SelfTestRun([sys.executable], tmp_path / "no" / "where").wait(0)
    assert found is not None and "did not start" in found.off


def test_lines_are_read_back_wherever_they_are_cut() -> None:
    item = Item("bulk", Result.ABSENT, "no\nIPv6", 2.5)
    assert (told_by(line_of("bulk").encode()), told_by(line_of(item).encode())) == ("bulk", item)
    account = Account(0.0)
    for octet in (line_of("bulk") + line_of(item)).encode():
        account.tell(bytes([octet]), 1.0)
    assert account.items == [item]
    for wrong in (b"[]\n", b"1\n", b'{"name": "x"}\n', b'{"name":"x","result":"?","detail":"","milliseconds":0}\n'):
        with pytest.raises(ValueError):
            Account(0.0).tell(wrong, 0.0)
    with pytest.raises(ValueError):
        Account(0.0).tell(bytes(MAX_LINE_BYTES + 1), 0.0)
