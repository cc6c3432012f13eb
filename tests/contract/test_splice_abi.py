"""The Python mirrors in ``nodeagent.splice.abi`` against the BTF of the splice's object, name by name."""

from __future__ import annotations

import json
import shutil
import struct
import subprocess
from typing import Any

import pytest

from nodeagent.loader import abi as mesh
from nodeagent.splice import abi
from nodeagent.splice.controller import MAX_FLOWS, OBJECT_PATH

MAX_NAME = 15
INTERNAL = {"mesh_addr", "mesh_splice_vocabulary", "mesh_splice_dial", "mesh_splice_wait", "mesh_splice_exchange"}


@pytest.fixture(scope="module")
def types() -> list[dict[str, Any]]:
    """Every BTF type of the object."""
    assert OBJECT_PATH.exists(), "the splice's object is not built; run 'make bpf'"
    tool = shutil.which("bpftool") or "/usr/sbin/bpftool"
    dump = subprocess.run([tool, "-j", "btf", "dump", "file", OBJECT_PATH], capture_output=True, check=True)
    found: list[dict[str, Any]] = json.loads(dump.stdout)["types"]
    return found


def named(types: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    matches = [entry for entry in types if entry["kind"] == kind and entry["name"] == name]
    assert len(matches) == 1, f"{kind} {name} is in the BTF {len(matches)} times"
    return matches[0]


@pytest.mark.parametrize("layout", abi.LAYOUTS, ids=lambda layout: layout.name)
def test_every_struct_has_the_same_fields_at_the_same_offsets(types: list[dict[str, Any]], layout: mesh.Layout) -> None:
    kernel = named(types, "STRUCT", layout.name)
    offset, mirror = 0, []
    for name, code in layout.fields:
        mirror.append((name, offset * 8))
        offset += struct.calcsize("=" + code)
    assert [(member["name"], member["bits_offset"]) for member in kernel["members"]] == mirror
    assert kernel["size"] == offset == layout.size


def test_no_struct_is_without_a_mirror(types: list[dict[str, Any]]) -> None:
    kernel = {entry["name"] for entry in types if entry["kind"] == "STRUCT" and entry["name"].startswith("mesh_")}
    shared = {layout.name for layout in mesh.LAYOUTS}
    assert kernel - INTERNAL - shared == {layout.name for layout in abi.LAYOUTS}


@pytest.mark.parametrize(
    ("name", "prefix", "mirror"),
    [
        ("mesh_splice_role", "MESH_SPLICE_", abi.SocketRole),
        ("mesh_splice_flag", "MESH_SPLICE_", abi.Flag),
        ("mesh_splice_reader", "MESH_SPLICE_", abi.Reader),
        ("mesh_splice_switch", "MESH_SPLICE_", abi.Switch),
        ("mesh_splice_operation", "MESH_SPLICE_", abi.Operation),
        ("mesh_splice_answer", "MESH_SPLICE_", abi.SpliceAnswer),
        ("mesh_splice_count", "MESH_SPLICE_COUNT_", abi.SpliceCount),
    ],
)
def test_every_enum_has_the_same_words(types: list[dict[str, Any]], name: str, prefix: str, mirror: Any) -> None:
    kernel = {value["name"].removeprefix(prefix): value["val"] for value in named(types, "ENUM", name)["values"]}
    kernel.pop("END", None)
    if mirror is abi.Flag:
        assert kernel.pop("OUT") == abi.OUT == sum(flag for flag in abi.Flag if flag.name and "OUT_" in flag.name)
    assert kernel == {member.name: member.value for member in mirror}


def test_the_maps_and_programs_are_those_that_we_open(types: list[dict[str, Any]]) -> None:
    maps = next(entry for entry in types if entry["kind"] == "DATASEC" and entry["name"] == ".maps")
    by_id = {entry["id"]: entry for entry in types}
    names = {by_id[variable["type_id"]]["name"]: variable for variable in maps["vars"]}
    opened = {
        abi.FLOW_MAP, abi.SOCKET_MAP, abi.HASH_MAP, abi.BROKEN_MAP, abi.CONFIG_MAP, abi.TOTAL_MAP, abi.COUNT_MAP,
        abi.ENTER_MAP,
        mesh.CLIENT_MAP,
        mesh.ORIGIN_MAP,
    }  # fmt: skip
    assert set(names) - opened == {
        "mesh_spl_server",
        "mesh_spl_dial",
        "mesh_spl_zcopy",
        "mesh_spl_talk",
        "mesh_spl_oob",
    }
    assert all(len(name) <= MAX_NAME for name in names)
    programs = {entry["name"] for entry in types if entry["kind"] == "FUNC" and entry.get("linkage") == "global"}
    attached = {
        abi.CONTROL_PROGRAM,
        abi.ADMIT_PROGRAM,
        abi.VERDICT_PROGRAM,
        *abi.CGROUP_PROGRAMS,
        *abi.TRACING_PROGRAMS,
        abi.FIONREAD_PROGRAM,
        abi.RING_PROGRAM,
    }
    assert programs == attached


def test_only_an_iterator_may_change_the_hash() -> None:
    """Older kernels let a tc program change a map of sockets; the verifier of Linux 7 refuses it, and with it the whole
    object. Whoever names the hash here could change it, but for sk_msg, which can only redirect.
    """
    shown = subprocess.run(
        ["llvm-readelf", "--relocations", "--wide", OBJECT_PATH], capture_output=True, text=True, check=True
    ).stdout
    named_in: dict[str, set[str]] = {}
    for part in shown.split("Relocation section '.rel")[1:]:
        section = part.partition("'")[0]
        for line in part.splitlines()[2:]:
            if (words := line.split()) and not section.startswith((".BTF", ".debug")):
                named_in.setdefault(words[-1], set()).add(section)
    assert named_in[abi.FLOW_MAP] >= {"tc", "sk_msg", "sockops"}, "this test reads the relocations wrongly"
    assert named_in[abi.HASH_MAP] == {"sk_msg", "iter/bpf_sk_storage_map"}


def test_the_bounds_are_the_same() -> None:
    header = (OBJECT_PATH.parent.parent.parent / "bpf/include/splice.h").read_text()
    assert f"#define MESH_MAX_SPLICES {MAX_FLOWS}\n" in header
