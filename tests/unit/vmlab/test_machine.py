from __future__ import annotations

import ast
from pathlib import Path

from vmlab import __file__ as package
from vmlab.__main__ import ALL, README, REPOSITORY, SOME, selection
from vmlab.archive import Kernel
from vmlab.baggage import libraries
from vmlab.machine import PROCESSOR, Run, acceleration, command
from vmlab.table import put

AMD = "processor\t: 0\nflags\t\t: fpu svm sse\n"
PLAIN = "processor\t: 0\nflags\t\t: fpu sse\n"


def test_kvm_is_used_where_it_works() -> None:
    assert acceleration(AMD, kvm_opens=True).kvm
    assert not acceleration(AMD, kvm_opens=False).kvm
    software = acceleration(PLAIN, kvm_opens=True)
    assert not software.kvm and "neither vmx nor svm" in software.why
    assert acceleration(PLAIN, kvm_opens=False, wish="kvm").kvm, "the operator insists"
    assert not acceleration(AMD, kvm_opens=True, wish="tcg").kvm
    assert software.slow > acceleration(AMD, kvm_opens=True).slow > 1


def test_the_command_that_boots() -> None:
    run = Run(Path("/a repo"), Path("/out"), ("tests/kernel", "-k", "it's"), 60.0)
    kernel = Kernel("6.1", Path("/vmlinuz"))
    words = command(kernel, run, acceleration(AMD, kvm_opens=True), Path("/vng"))
    assert words[:3] == ["/vng", "--run", "/vmlinuz"]
    assert "--rw" not in words, "the guest must not change this file system"
    assert "--disable-kvm" not in words
    assert words[-1].endswith("'tests/kernel' '-k' 'it'\\''s'") and "'/a repo/vm-lab/inside'" in words[-1]
    disk = "--qemu-opts=-drive file=/out/baggage.tar,if=virtio,format=raw,readonly=on"
    assert any(word.startswith(disk) for word in words)
    emulated = command(kernel, run, acceleration(PLAIN, kvm_opens=True), Path("/vng"))
    assert {"--disable-kvm", "--append=no_timer_check"} <= set(emulated), "a busy host's guest must not wait for a tick"
    assert any(word.startswith("--qemu-opts=") and f"-cpu {PROCESSOR}" in word for word in emulated)


def test_which_libraries_a_program_needs() -> None:
    ldd = "\tlinux-vdso.so.1 (0x00)\n\tlibc.so.6 => /lib/libc.so.6 (0x01)\n\t/lib64/ld.so.2 (0x02)\n\tx => not found\n"
    assert libraries(ldd) == {"/lib/libc.so.6", "/lib64/ld.so.2"}


def test_the_choice_of_tests() -> None:
    assert selection("some") == SOME
    assert selection("all") == ALL
    assert selection("tests/kernel -k v6") == ("tests/kernel", "-k", "v6")
    listed = SOME[-1]
    assert not [word for word in (REPOSITORY / listed[1:]).read_text().split() if word.startswith("-p")], (
        "ignored there"
    )
    words = [*ALL, *(REPOSITORY / listed.removeprefix("@")).read_text().splitlines()]
    names = [word.removeprefix("--ignore=") for word in words if "tests/" in word]
    assert len(names) > 5
    for path, _, story in (name.partition("::") for name in names):
        assert f"def {story}" in (REPOSITORY / path).read_text() if story else (REPOSITORY / path).exists(), path


def test_the_document_has_a_place_for_the_table() -> None:
    assert put(README.read_text(), {})


def test_the_lab_stands_alone() -> None:
    """It drives the tests and must not depend on what they test."""
    for path in Path(package).parent.glob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not [n for n in names if n.split(".")[0] in ("nodeagent", "control", "tests")], path
