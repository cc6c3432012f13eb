"""The library, where it is missing, and how its errors read."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from nodeagent.loader import sys
from nodeagent.loader.errors import BpfError, LibraryMissingError
from nodeagent.loader.sys import Libbpf, libbpf


def test_a_missing_library_names_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "SONAME", "libbpf-that-is-not-there.so.1")
    with pytest.raises(LibraryMissingError, match="libbpf1"):
        Libbpf()


def test_it_is_opened_once_and_tells_its_version() -> None:
    assert libbpf() is libbpf()
    assert libbpf().version().startswith("v1.")


def test_an_error_says_what_and_why() -> None:
    libbpf().ffi.errno = 0  # of whatever failed before, in another test
    with pytest.raises(BpfError, match=r"cannot fly: Operation not permitted \(EPERM\); flap") as raised:
        libbpf().check(-errno.EPERM, "cannot fly", "flap")
    assert raised.value.code == errno.EPERM
    assert libbpf().check(3, "cannot fly") == 3


def test_what_the_library_says_goes_into_the_error(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "not-elf.o"
    path.write_bytes(b"not an object file")
    with pytest.raises(BpfError, match=r"not-elf\.o.*libbpf: "):
        libbpf().open_object(path)
    assert capfd.readouterr().err == "", "nothing is written past the agent's own log"
