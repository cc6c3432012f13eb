"""Why this machine cannot trace: all reasons at once, each with what to do about it and an exit status of its own."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

from nodeagent.trace.probe import REQUIRED, TRACEFS

PROBE: Final = Path(__file__).with_name("probe.py")
SYSTEM_PYTHON: Final = "/usr/bin/python3"
"""For which distributions build BCC's Python module, whatever Python the agent has."""
CHECK_SECONDS: Final = 30.0
KHEADERS: Final = Path("/sys/kernel/kheaders.tar.xz")


class ExitStatus(IntEnum):
    """Exit statuses of the verb, above click's own 1 (failure) and 2 (usage)."""

    NOT_ROOT = 3
    NO_BCC = 4
    NO_HEADERS = 5
    NO_TRACEFS = 6
    KERNEL_REFUSED = 7
    LOST_PROBE = 8


class Obstacle(NamedTuple):
    """One thing that is missing."""

    status: ExitStatus
    text: str


class CannotTraceError(Exception):
    """The trace cannot start, or not go on; the message is the whole answer, ``status`` the exit status."""

    def __init__(self, obstacles: Sequence[Obstacle]) -> None:
        texts = [obstacle.text for obstacle in obstacles]
        super().__init__(
            "cannot trace: " + texts[0] if len(texts) == 1 else "cannot trace:\n  - " + "\n  - ".join(texts)
        )
        self.status = obstacles[0].status


def not_root(uid: int) -> Obstacle | None:
    """Whether the user may load programs that read kernel memory."""
    if uid == 0:
        return None
    return Obstacle(
        ExitStatus.NOT_ROOT, "it reads kernel memory, which only root may: run it as root (sudo nodeagent trace)"
    )


def no_headers(release: str, strings: Mapping[str, str], root: Path = Path("/")) -> Obstacle | None:
    """Whether BCC will find the headers of the running kernel, in the places where it looks."""
    given = strings.get("BCC_KERNEL_SOURCE")
    if given:
        if _headers_in(Path(given)):
            return None
        return Obstacle(ExitStatus.NO_HEADERS, f"BCC_KERNEL_SOURCE is {given}, and no kernel headers are there")
    modules = root / "lib/modules" / release
    if _headers_in(modules / "build") or _headers_in(modules / "source"):
        return None
    if (root / KHEADERS.relative_to("/")).exists() or any(modules.glob("kernel/kernel/kheaders.ko*")):
        return None
    dangling = " (it is a link to nowhere)" if (modules / "build").is_symlink() else ""
    return Obstacle(
        ExitStatus.NO_HEADERS,
        f"BCC compiles on this node and needs the headers of the running kernel {release}, found neither in "
        f"{modules}/build{dangling} nor in {KHEADERS} (CONFIG_IKHEADERS): install linux-headers-{release} (Debian, "
        f"Ubuntu) or kernel-devel-{release} (Fedora, RHEL). For a kernel of your own, point BCC_KERNEL_SOURCE to its "
        "build tree; for one that is no longer in the archive, boot a current one",
    )


def _headers_in(tree: Path) -> bool:
    """``include/linux/kconfig.h`` is what BCC includes first; Debian keeps it in the tree that ``source`` names."""
    return any((tree / name).exists() for name in ("include/linux/kconfig.h", "include/generated/autoconf.h"))


def no_tracefs(roots: Sequence[Path] = TRACEFS) -> Obstacle | None:
    """Whether the tracepoint without which nothing is seen is there."""
    if any((root / "events" / REQUIRED.replace(":", "/") / "format").exists() for root in roots):
        return None
    if any((root / "events").exists() for root in roots):
        text = f"this kernel has no tracepoint {REQUIRED}: it is older than 4.16, or built without CONFIG_EVENT_TRACING"
    else:
        text = f"tracefs is not mounted: mount -t tracefs tracefs {roots[0]}"
    return Obstacle(ExitStatus.NO_TRACEFS, text)


def find_python(candidates: Sequence[str] = (sys.executable, SYSTEM_PYTHON)) -> str | Obstacle:
    """A Python that has BCC."""
    reasons = []
    for python in dict.fromkeys(candidates):
        answer = _ask(python)
        if answer is None:
            return python
        reasons.append(f"{python}: {answer}")
    return Obstacle(
        ExitStatus.NO_BCC,
        "no Python with BCC: install python3-bpfcc (Debian, Ubuntu) or python3-bcc (Fedora, RHEL), which is for "
        f"{SYSTEM_PYTHON} and is found there; not 'pip install bcc', which is something else. Looked at "
        + "; ".join(reasons),
    )


def _ask(python: str) -> str | None:
    """Why this Python will not do; None if it will."""
    try:
        done = subprocess.run(
            [python, "-I", str(PROBE), "--check"], capture_output=True, timeout=CHECK_SECONDS, check=False
        )
        answer = json.loads(done.stdout)
    except OSError as error:
        return error.strerror or str(error)
    except subprocess.TimeoutExpired:
        return f"no answer within {CHECK_SECONDS:g} s"
    except ValueError:
        return f"ended with status {done.returncode}: {done.stderr.decode(errors='replace').strip()[-200:]}"
    text = answer.get("text") if isinstance(answer, dict) else repr(answer)
    return None if text is None else str(text)


def ready_python(uid: int, release: str, strings: Mapping[str, str]) -> str:
    """The Python to use. CannotTraceError says all that is in the way: one visit to the package manager is enough."""
    root, python = not_root(uid), find_python()
    found = [root, None if isinstance(python, str) else python, no_headers(release, strings)]
    if root is None:  # nobody else may look into tracefs
        found.append(no_tracefs())
    obstacles = [obstacle for obstacle in found if obstacle is not None]
    if obstacles or not isinstance(python, str):
        raise CannotTraceError(obstacles)
    return python
