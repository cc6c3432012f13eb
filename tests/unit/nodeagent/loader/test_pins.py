"""Where pins are, without a BPF file system."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.loader.errors import LoaderError
from nodeagent.loader.pins import instance_path, map_pin, remove_all

BPFFS = Path("/sys/fs/bpf")


def test_each_instance_has_its_directory() -> None:
    assert instance_path(BPFFS, "default") == BPFFS / "nodemesh/default"
    assert map_pin(instance_path(BPFFS, "node-a"), "mesh_flow_v1") == BPFFS / "nodemesh/node-a/maps/mesh_flow_v1"


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a.b", "-a", "A", "x" * 64, "a\n"])
def test_an_instance_cannot_be_somewhere_else(name: str) -> None:
    with pytest.raises(LoaderError, match="instance"):
        instance_path(BPFFS, name)


def test_where_nothing_was_pinned_there_is_nothing_to_remove(tmp_path: Path) -> None:
    assert remove_all(tmp_path, "default") == []
