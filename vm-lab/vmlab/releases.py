"""Which of Debian's packages hold the kernel of a series. Pure: it reads what apt printed."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final

FLAVOUR: Final = "amd64"
"""The plain one: it has every network device and file system that the tests need as a module."""
_IMAGE: Final = re.compile(r"linux-image-(?P<release>\d+\.\d+\.\d+(-\d+)?(\+[a-z]+\d+(\.\d+)*)?)-" + FLAVOUR)
_SERIES: Final = re.compile(r"\d+\.(\d+|x)")
_PARTS: Final = ("linux-binary-", "linux-modules-")


class NoSuchKernelError(Exception):
    """Debian has no such kernel; the text says which series there are."""


def newest(names: Iterable[str], series: str) -> str:
    """The release (``6.1.0-56-amd64``) of the newest kernel of a series: ``6.1``, or ``7.x`` for the newest 7.

    ``names`` are package names, as ``apt-cache search`` prints them first in each line; others are ignored.
    """
    if not _SERIES.fullmatch(series):
        raise NoSuchKernelError(f"{series!r} names no kernel series: write it as 6.12, or 7.x for the newest 7")
    found = {match["release"] for name in names if (match := _IMAGE.fullmatch(name))}
    major, minor = series.split(".")
    mine = [r for r in found if _numbers(r)[0] == int(major) and (minor == "x" or _numbers(r)[1] == int(minor))]
    if not mine:
        there = sorted({tuple(_numbers(release)[:2]) for release in found})
        listed = ", ".join(".".join(map(str, pair)) for pair in there) or "none at all: did apt-get update work?"
        raise NoSuchKernelError(f"Debian's archive has no kernel {series}; it has {listed}")
    return f"{max(mine, key=_numbers)}-{FLAVOUR}"


def _numbers(release: str) -> list[int]:
    """6.12.118+deb13 is newer than 6.12.9+deb13."""
    return [int(number) for number in re.findall(r"\d+", release)]


def packages(release: str, depends: str) -> list[str]:
    """What to download. ``depends``: the output of ``apt-cache depends linux-image-<release>``.

    From 7.0 on the image's package is a list of others; before, it holds kernel and modules itself.
    """
    wanted = {prefix + release for prefix in _PARTS}
    parts = sorted(wanted & {line.split()[-1] for line in depends.splitlines() if line.split()})
    return parts or [f"linux-image-{release}"]
