"""Ports of a network namespace that the kernel gives to nobody who does not ask for them by number
(``net.ipv4.ip_local_reserved_ports``): neither listen() nor sendto() nor connect() without bind() ends on one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Final, TypeVar

from nodeagent.namespaces.entry import OpenNamespace, enter

SYSCTL: Final = Path("/proc/sys/net/ipv4/ip_local_reserved_ports")

T = TypeVar("T")


def parsed(text: str) -> set[int]:
    """The ports of a list of numbers and ranges, ``8080,9148-9150``. ValueError if it is none."""
    ports: set[int] = set()
    for item in text.strip().split(","):
        if item:
            first, _, last = item.partition("-")
            ports.update(range(int(first), int(last or first) + 1))
    return ports


def listed(ports: Iterable[int]) -> str:
    """The shortest list of these ports."""
    ranges: list[list[int]] = []
    for port in sorted(ports):
        if ranges and ranges[-1][1] == port - 1:
            ranges[-1][1] = port
        else:
            ranges.append([port, port])
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in ranges)


def reserved(namespace: OpenNamespace | None) -> set[int]:
    """What is reserved (None: in the calling thread's namespace). OSError, NamespaceError."""
    return _inside(namespace, lambda: parsed(SYSCTL.read_text()))


def reserve(namespace: OpenNamespace | None, ports: Collection[int]) -> set[int]:
    """Reserve these as well; which of them were not before. OSError, NamespaceError, ValueError."""

    def add() -> set[int]:
        before = parsed(SYSCTL.read_text())
        added = set(ports) - before
        if added:
            SYSCTL.write_text(listed(before | added) + "\n")
        return added

    return _inside(namespace, add)


def give_back(namespace: OpenNamespace | None, ports: Collection[int]) -> None:
    """Reserve these no more; others stay as they are. OSError, NamespaceError, ValueError."""

    def remove() -> None:
        before = parsed(SYSCTL.read_text())
        if before & set(ports):
            SYSCTL.write_text(listed(before - set(ports)) + "\n")

    _inside(namespace, remove)


def _inside(namespace: OpenNamespace | None, closure: Callable[[], T]) -> T:
    return closure() if namespace is None else enter(namespace, closure)
