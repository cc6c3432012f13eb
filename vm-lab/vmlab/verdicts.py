"""What the tests of one kernel said. Pure: it reads pytest's JUnit file and what the guest left beside it."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final

GROUPS: Final = ("capture", "splice", "stories")
_TROUBLE: Final = re.compile(r"\b(BUG:|WARNING:|Oops|general protection|Kernel panic|refcount_t|soft lockup)")


@dataclass(frozen=True, slots=True)
class Tally:
    """Tests of one group, by what became of them. Degraded: the kernel cannot, and that was proved instead."""

    passed: int = 0
    degraded: int = 0
    failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """One kernel."""

    groups: dict[str, Tally] = field(default_factory=dict)
    splice: dict[str, object] = field(default_factory=dict)
    """What ``nodeagent status`` said of the splice."""
    trouble: tuple[str, ...] = ()
    """What the kernel complained of."""
    unfinished: str = ""
    """Why not everything ran; empty if it did."""

    @property
    def told(self) -> bool:
        """Whether any test ended. A guest that died before says nothing of its kernel."""
        return bool(self.groups)

    @property
    def good(self) -> bool:
        return not (self.unfinished or self.trouble or any(tally.failed for tally in self.groups.values()))


def read(junit: str | None, status: str, dmesg: str) -> Verdict:
    """``junit``: None if there is none. ``status``: pytest's exit status as text, empty if it never ended."""
    trouble = tuple(line.strip() for line in dmesg.splitlines() if _TROUBLE.search(line))
    if junit is None:
        return Verdict(trouble=trouble, unfinished="no test ended: see console.log and pytest.log")
    root = ET.fromstring(junit)
    cases = list(root.iter("testcase"))
    said = next((p.get("value", "") for p in root.iter("property") if p.get("name") == "splice"), "{}")
    groups = {name: _tally(case for case in cases if _group(case) == name) for name in GROUPS}
    return Verdict(groups, json.loads(said), trouble, _unfinished(status.strip()))


def _unfinished(status: str) -> str:
    match status:
        case "0" | "1":
            return ""
        case "124" | "2" | "137":
            return "ran out of time"
        case "":
            return "the machine stopped"
        case _:
            return f"pytest ended with status {status}"


def _group(case: ET.Element) -> str:
    name = case.get("classname", "")
    if name.startswith("tests.kernel"):
        return "splice" if ".test_splice" in name else "capture"
    return "stories" if name.startswith("tests.netns") else ""


def _tally(cases: Iterable[ET.Element]) -> Tally:
    passed, degraded, failed = 0, 0, []
    for case in cases:
        if any(child.tag in ("failure", "error", "skipped") for child in case):
            failed.append(f"{case.get('classname')}::{case.get('name')}")
        elif any(p.get("name") == "degraded" for p in case.iter("property")):
            degraded += 1
        else:
            passed += 1
    return Tally(passed, degraded, tuple(dict.fromkeys(failed)))
