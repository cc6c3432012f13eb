"""A process that is held back until it is captured, described as the kernel attests it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodeagent.capture.cgroups import cgroup_ids_of
from nodeagent.capture.plan import User


@dataclass(frozen=True, slots=True)
class Held:
    """The cgroups and the network namespace of a process."""

    cgroups: tuple[int, ...]
    """Its own cgroup and all above it, the nearest first; before each the number that stands for its user there."""
    inode: int
    """Of its network namespace."""
    name: str
    """What to call it in messages."""

    @classmethod
    def process(cls, pid: int | str, name: str, uid: int | None = None) -> Held:
        """``uid``: the user that it is going to be, if not that of the process. OSError or CgroupError if there is no
        such process.
        """
        user = real_user(pid) if uid is None else uid
        numbers = (number for cgroup in cgroup_ids_of(pid) for number in (User(cgroup, user).number, cgroup))
        return cls(tuple(numbers), Path(f"/proc/{pid}/ns/net").stat().st_ino, name)


def real_user(pid: int | str) -> int:
    """The real user of a process. OSError if there is none."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("Uid:")).split()[1])
