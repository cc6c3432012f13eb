"""Mirrors that nothing compiles together: kernel.c's event and probe.py's, kernel.c's flow record and the agent's."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from nodeagent.loader import abi
from nodeagent.trace import probe
from nodeagent.trace.probe import KERNEL, End, KernelEvent

TYPES = """
#include <stddef.h>
#include <stdint.h>
typedef uint64_t u64; typedef uint32_t u32; typedef uint16_t u16; typedef uint8_t u8; typedef int32_t s32;
typedef uint16_t __be16;
"""


def definition(kind: str, name: str) -> str:
    """A struct or enum, as it is written in kernel.c."""
    found = re.search(rf"^{kind} {name} \{{.*?^\}};", KERNEL.read_text(), re.MULTILINE | re.DOTALL)
    assert found, f"kernel.c has no {kind} {name}"
    return found[0]


def holds(tmp_path: Path, structs: tuple[str, ...], assertions: list[str]) -> None:
    source = tmp_path / "layout.c"
    text = TYPES + "\n".join(definition("struct", name) for name in structs)
    source.write_text(text + "\n".join(f'\n_Static_assert({item}, "{item}");' for item in assertions))
    subprocess.run(["clang", "-fsyntax-only", str(source)], check=True)


def test_the_probe_reads_what_the_kernel_writes(tmp_path: Path) -> None:
    assertions = [f"sizeof(struct event) == {sum(1 for _ in bytes(KernelEvent()))}", "sizeof(struct end) == 20"]
    assertions += [f"offsetof(struct event, {field[0]}) == {getattr(KernelEvent, field[0]).offset}"
                   for field in KernelEvent._fields_]  # fmt: skip
    assertions += [f"offsetof(struct end, port) == {End.port.offset}"]
    holds(tmp_path, ("end", "event"), assertions)


def test_the_flow_record_is_the_agents(tmp_path: Path) -> None:
    offsets, at = {}, 0
    for name, code in abi.FLOW.fields:
        offsets[name] = at
        at += abi.Layout("one", (name, code)).size
    holds(
        tmp_path,
        ("flow_key", "flow"),
        [
            f"sizeof(struct flow_key) == {abi.FLOW_KEY.size}", f"sizeof(struct flow) == {abi.FLOW.size}",
            "offsetof(struct flow_key, port) == 24", f"offsetof(struct flow, cgroup) == {offsets['cgroup_id']}",
            f"offsetof(struct flow, word) == {offsets['destination']}",
            f"offsetof(struct flow, port) == {offsets['destination']} + 16",
            f"offsetof(struct flow, pid) == {offsets['pid']}",
        ],
    )  # fmt: skip


@pytest.mark.parametrize(("name", "number"), [(name, number) for number, name in probe.KINDS.items()])
def test_kinds_have_the_same_numbers(name: str, number: int) -> None:
    assert re.search(rf"\b{name.upper().replace('-', '_')} = {number},", definition("enum", "kind"))


@pytest.mark.parametrize("name", ["ASKED", "SINCE", "CLIENT", "SERVER"])
def test_flags_have_the_same_numbers(name: str) -> None:
    assert re.search(rf"\b{name} = {getattr(probe, name)},", definition("enum", "flag"))
