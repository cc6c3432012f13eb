"""Holding a program back until it is captured: what ``nodeagent wait`` and ``nodeagent oci-hook`` do."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from nodeagent.capture.cgroups import cgroup_ids_of
from nodeagent.capture.plan import User

STEP_SECONDS: Final = 0.02
_Ask = Callable[[str], Any]
"""Gets a document of the agent; OSError or ValueError if it does not answer."""


@dataclass(frozen=True, slots=True)
class Held:
    """Who is held back: cgroups (its own and all above, and what stands for its user in each) and network namespace of
    a process, and how to call it.
    """

    cgroups: frozenset[int]
    inode: int
    name: str

    @classmethod
    def process(cls, pid: int | str, name: str, uid: int | None = None) -> Held:
        """``uid``: the user that it is going to be, if not that of the process. OSError or CgroupError if there is no
        such process.
        """
        cgroups, user = cgroup_ids_of(pid), real_user(pid) if uid is None else uid
        numbers = frozenset(User(cgroup, user).number for cgroup in cgroups)
        return cls(cgroups | numbers, Path(f"/proc/{pid}/ns/net").stat().st_ino, name)


def real_user(pid: int | str) -> int:
    """The real user of a process. OSError if there is none."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])


class RefusedError(Exception):
    """It must not go on; the text says why and what to do."""


def hold(held: Held, address: str, ask: _Ask, seconds: float, *, optional: bool = False) -> None:
    """Returns when it is captured, or, if that is ``optional``, when the agent has looked and nobody selects it.
    RefusedError after so many seconds. ``address`` is the agent's, for what is said.
    """
    deadline = time.monotonic() + seconds
    first: int | None = None
    while True:
        try:
            looks = int(ask("enrolment")["looks"]) if optional else 0
            first = looks if first is None else first
            looked = looks >= first + 2  # the look that was under way when we came, and one that began after it
            trouble = _trouble(held, ask("workloads"))
            unknown = trouble == _nobody(held)
        except (OSError, ValueError, KeyError, TypeError) as error:
            trouble, unknown, looked = (
                f"no agent answers on {address} ({getattr(error, 'reason', error)})",
                False,
                False,
            )
        if not trouble or (optional and unknown and looked):
            return
        if time.monotonic() >= deadline:
            raise RefusedError(f"not captured after {seconds:g} s: {trouble}")
        time.sleep(STEP_SECONDS)


def _trouble(held: Held, workloads: Any) -> str:
    """Why it is not captured (yet); nothing if it is."""
    mine = [workload for workload in workloads if held.cgroups & set(workload["cgroups"])]
    if not mine:
        words = {f"cgroup {number} " for number in held.cgroups}
        told = [text for w in workloads for text in w["problems"] if any(text.startswith(word) for word in words)]
        return told[0] if told else _nobody(held)
    served = any(place["inode"] == held.inode and place["served"] for w in mine for place in w["network_namespaces"])
    return "" if served else f"the agent does not listen in network namespace {held.inode} yet"


def _nobody(held: Held) -> str:
    return f"no workload of this node selects the cgroup of {held.name}"
