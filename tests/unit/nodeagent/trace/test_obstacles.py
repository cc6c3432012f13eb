from __future__ import annotations

import sys
from pathlib import Path

import pytest

from nodeagent.trace import obstacles
from nodeagent.trace.obstacles import (
    CannotTraceError,
    ExitStatus,
    Obstacle,
    find_python,
    no_headers,
    no_tracefs,
    not_root,
    ready_python,
)

RELEASE = "6.1.0-56-amd64"


def script(path: Path, text: str) -> str:
    path.write_text(text)
    path.chmod(0o755)
    return str(path)


def test_only_root_may() -> None:
    assert not_root(0) is None
    found = not_root(1000)
    assert found is not None and found.status == ExitStatus.NOT_ROOT and "sudo" in found.text


def test_headers_are_missing_by_name(tmp_path: Path) -> None:
    found = no_headers(RELEASE, {}, tmp_path)
    assert found is not None and found.status == ExitStatus.NO_HEADERS
    assert f"linux-headers-{RELEASE} (Debian" in found.text and f"kernel-devel-{RELEASE} (Fedora" in found.text
    assert "link to nowhere" not in found.text


def test_headers_that_were_removed_are_told_from_none(tmp_path: Path) -> None:
    modules = tmp_path / "lib/modules" / RELEASE
    modules.mkdir(parents=True)
    (modules / "build").symlink_to("/usr/src/nowhere")
    found = no_headers(RELEASE, {}, tmp_path)
    assert found is not None and "link to nowhere" in found.text


@pytest.mark.parametrize(
    "place",
    [
        f"lib/modules/{RELEASE}/build/include/generated/autoconf.h",
        f"lib/modules/{RELEASE}/source/include/linux/kconfig.h",
        f"lib/modules/{RELEASE}/kernel/kernel/kheaders.ko.xz", "sys/kernel/kheaders.tar.xz",
    ],
)  # fmt: skip
def test_headers_are_found_where_bcc_looks(place: str, tmp_path: Path) -> None:
    (tmp_path / place).parent.mkdir(parents=True)
    (tmp_path / place).touch()
    assert no_headers(RELEASE, {}, tmp_path) is None


def test_a_tree_that_the_operator_names_is_the_only_one(tmp_path: Path) -> None:
    found = no_headers(RELEASE, {"BCC_KERNEL_SOURCE": str(tmp_path)})
    assert found is not None and str(tmp_path) in found.text
    (tmp_path / "include/linux").mkdir(parents=True)
    (tmp_path / "include/linux/kconfig.h").touch()
    assert no_headers(RELEASE, {"BCC_KERNEL_SOURCE": str(tmp_path)}) is None


def test_tracefs_that_is_not_mounted_is_told_from_a_kernel_without_the_event(tmp_path: Path) -> None:
    found = no_tracefs((tmp_path,))
    assert found is not None and found.text.startswith("tracefs is not mounted: mount -t tracefs")
    (tmp_path / "events").mkdir()
    found = no_tracefs((tmp_path,))
    assert found is not None and found.status == ExitStatus.NO_TRACEFS and "has no tracepoint" in found.text
    (tmp_path / "events/sock/inet_sock_set_state").mkdir(parents=True)
    (tmp_path / "events/sock/inet_sock_set_state/format").touch()
    assert no_tracefs((tmp_path / "other", tmp_path)) is None


def test_a_python_with_bcc_is_found_after_one_without(tmp_path: Path) -> None:
    without = script(tmp_path / "without", """#!/bin/sh\necho '{"failed": "bcc", "text": "no module bcc"}'\n""")
    with_bcc = script(tmp_path / "with", """#!/bin/sh\necho '{"ready": {}}'\n""")
    broken = script(tmp_path / "broken", "#!/bin/sh\necho oh dear >&2; exit 7\n")
    assert find_python((without, with_bcc)) == with_bcc
    found = find_python((without, broken, str(tmp_path / "absent")))
    assert isinstance(found, Obstacle) and found.status == ExitStatus.NO_BCC
    assert "install python3-bpfcc (Debian" in found.text and "not 'pip install bcc'" in found.text
    assert "no module bcc" in found.text and "status 7: oh dear" in found.text and "No such file" in found.text


def test_pypis_bcc_is_recognised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is a lattice library, whose module has the same name."""
    (tmp_path / "bcc").mkdir()
    (tmp_path / "bcc/__init__.py").write_text("from bcc.bcc import *\n")
    (tmp_path / "bcc/bcc.py").write_text("class BCC: ...\n")
    python = script(
        tmp_path / "python",
        f"#!/bin/sh\nexec {sys.executable} -c 'import runpy, sys; sys.path.insert(0, \"{tmp_path}\"); "
        "sys.argv = sys.argv[2:]; runpy.run_path(sys.argv[0], run_name=\"__main__\")' \"$@\"\n",
    )  # fmt: skip
    found = find_python((python,))
    assert isinstance(found, Obstacle)
    assert "is another package of the same name (PyPI's bcc is a lattice library)" in found.text


def test_everything_that_is_missing_is_said_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(obstacles, "find_python", lambda: Obstacle(ExitStatus.NO_BCC, "no BCC"))
    with pytest.raises(CannotTraceError) as error:
        ready_python(1000, "0.0.0-nowhere", {})
    assert error.value.status == ExitStatus.NOT_ROOT, "the first of them"
    assert "no BCC" in str(error.value) and "linux-headers-0.0.0-nowhere" in str(error.value)
