"""The Python mirrors in ``nodeagent.loader.abi`` against the BTF of the object that is shipped, name by name."""

from __future__ import annotations

import json
import re
import shutil
import struct
import subprocess
from pathlib import Path
from typing import Any

import pytest

from nodeagent.loader import abi
from nodeagent.loader.objects import OBJECT_PATH

ROOT = Path(__file__).parent.parent.parent
MAX_MAP_NAME = 15
VERIFIED_ONCE = {"mesh_enrolled_cgroup", "mesh_is_served", "mesh_take_port"}
"""Functions that programs call: global, so that the verifier looks at each once."""


@pytest.fixture(scope="module")
def types() -> list[dict[str, Any]]:
    """Every BTF type of the object."""
    assert OBJECT_PATH.exists(), "the BPF object is not built; run 'make bpf'"
    tool = shutil.which("bpftool") or "/usr/sbin/bpftool"
    dump = subprocess.run([tool, "-j", "btf", "dump", "file", OBJECT_PATH], capture_output=True, check=True)
    found: list[dict[str, Any]] = json.loads(dump.stdout)["types"]
    return found


def named(types: list[dict[str, Any]], kind: str, name: str) -> dict[str, Any]:
    matches = [entry for entry in types if entry["kind"] == kind and entry["name"] == name]
    assert len(matches) == 1, f"{kind} {name} is in the BTF {len(matches)} times"
    return matches[0]


@pytest.mark.parametrize("layout", abi.LAYOUTS, ids=lambda layout: layout.name)
def test_every_struct_has_the_same_fields_at_the_same_offsets(types: list[dict[str, Any]], layout: abi.Layout) -> None:
    kernel = named(types, "STRUCT", layout.name)
    offset, mirror = 0, []
    for name, code in layout.fields:
        mirror.append((name, offset * 8))
        offset += struct.calcsize("=" + code)
    assert [(member["name"], member["bits_offset"]) for member in kernel["members"]] == mirror
    assert kernel["size"] == offset == layout.size


def test_no_struct_is_without_a_mirror(types: list[dict[str, Any]]) -> None:
    internal = {"mesh_addr", "mesh_vocabulary", "mesh_facts", "mesh_decision"}
    kernel = {entry["name"] for entry in types if entry["kind"] == "STRUCT" and entry["name"].startswith("mesh_")}
    assert kernel - internal == {layout.name for layout in abi.LAYOUTS}


@pytest.mark.parametrize(
    ("name", "prefix", "mirror"),
    [
        ("mesh_count", "MESH_COUNT_", abi.CaptureCount),
        ("mesh_dest_flag", "MESH_DEST_", abi.DestinationFlag),
        ("mesh_cgroup_flag", "MESH_CGROUP_", abi.CgroupFlag),
        ("mesh_listener_flag", "MESH_LISTENER_", abi.ListenerFlag),
        ("mesh_door_flag", "MESH_DOOR_", abi.DoorFlag),
        ("mesh_crew", "MESH_CREW_", abi.Crew),
        ("mesh_config_flag", "MESH_CONFIG_", abi.ConfigFlag),
        ("mesh_client_role", "MESH_CLIENT_", abi.ClientRole),
        ("mesh_port_mode", "MESH_PORT_", abi.PortMode),
        ("mesh_port_flag", "MESH_PORT_", abi.PortFlag),
    ],
)
def test_every_enum_has_the_same_words(types: list[dict[str, Any]], name: str, prefix: str, mirror: Any) -> None:
    kernel = {value["name"].removeprefix(prefix): value["val"] for value in named(types, "ENUM", name)["values"]}
    kernel.pop("END", None)
    assert kernel == {member.name: member.value for member in mirror}


def test_the_maps_are_those_that_we_open_and_their_names_fit_the_kernel(types: list[dict[str, Any]]) -> None:
    maps = next(entry for entry in types if entry["kind"] == "DATASEC" and entry["name"] == ".maps")
    by_id = {entry["id"]: entry for entry in types}
    names = {by_id[variable["type_id"]]["name"] for variable in maps["vars"]}
    assert names == {
        abi.DESTINATION_MAP, abi.CGROUP_MAP, abi.LISTENER_MAP, abi.CONFIG_MAP, abi.FLOW_MAP, abi.COUNT_MAP,
        abi.ORIGIN_MAP, abi.DIAL_MAP, abi.CLIENT_MAP, abi.PORT_MAP, abi.OWN_MAP, abi.STEER_MAP, abi.LOCAL_MAP,
        abi.ORIGIN_MAP, abi.DNS_MAP, abi.ASKER_MAP, abi.RESOLVERS_MAP, abi.EGRESS_MAP, abi.REFUSED_MAP,
        abi.USER_MAP, abi.ALIVE_MAP, abi.DOOR_MAP, abi.OURS_MAP, abi.CREW_MAP,
    }  # fmt: skip
    assert all(re.fullmatch(r"mesh_[a-z]+_v[0-9]+", name) and len(name) <= MAX_MAP_NAME for name in names)


def test_the_programs_are_those_that_we_attach(types: list[dict[str, Any]]) -> None:
    functions = {entry["name"] for entry in types if entry["kind"] == "FUNC" and entry.get("linkage") == "global"}
    assert functions - VERIFIED_ONCE == set(abi.PROGRAMS)


def test_the_bounds_are_the_same() -> None:
    conf = (ROOT / "bpf/include/conf.h").read_text()
    assert f"#define MESH_MAX_DEPTH {abi.MAX_DEPTH}\n" in conf
    assert f"#define MESH_DNS_SLOTS {abi.DNS_SLOTS}\n" in conf
    assert f"#define MESH_ABI {abi.ABI}\n" in (ROOT / "bpf/include/abi.h").read_text()
