"""State of runtimes as they write it, in a temporary directory. ``data`` has what docker 20.10, runc 1.1, crun 1.8,
podman 4.3 and containerd 1.6 wrote, shortened."""

from __future__ import annotations

import gzip
import json
import struct
from pathlib import Path
from typing import Any

DATA = Path(__file__).parent / "data"
DOCKER_ID = "2808b48c835b4c60b18a048e003cc81cda4ac7f4529f187151e9b55630061341"
PODMAN_ID = "f66c96e4272bfd47403e09dc9b89858769c5989d1c09f16da4a52fbf062d6e82"


def put(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    path.chmod(0o600)
    return path


def runc(root: Path, mount: Path, name: str = DOCKER_ID, **labels: str) -> Path:
    """A container of runc, in ``/docker/<name>``; its cgroup is made."""
    state: dict[str, Any] = json.loads((DATA / "runc-state.json").read_text())
    assert state["cgroup_paths"][""] == f"/sys/fs/cgroup/unified/docker/{DOCKER_ID}"
    cgroup = mount / "docker" / name
    cgroup.mkdir(parents=True, exist_ok=True)
    state |= {"id": name, "cgroup_paths": {"": str(cgroup)}}
    state["config"]["labels"] += [f"{key}={value}" for key, value in labels.items()]
    return put(root / name / "state.json", state)


def docker(root: Path, name: str = DOCKER_ID) -> Path:
    """docker's own file of a container with the labels app=web and tier=x."""
    return put(root / "containers" / name / "config.v2.json", (DATA / "docker-config.v2.json").read_text())


def podman(root: Path) -> Path:
    """podman's database with one container, of the labels app=web and tier=y."""
    path = root / "libpod/bolt_state.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.decompress((DATA / "bolt_state.db.gz").read_bytes()))
    path.chmod(0o600)
    return path


def containerd(root: Path) -> Path:
    """containerd's database: ``solo`` with the labels app=web and tier=z, ``bare``, and ``twice`` in two namespaces."""
    path = root / "io.containerd.metadata.v1.bolt/meta.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.decompress((DATA / "containerd-meta.db.gz").read_bytes()))
    path.chmod(0o644)
    return path


def commit(path: Path) -> None:
    """Another transaction of a bolt database, which changes nothing."""
    data = path.read_bytes()
    page = struct.unpack_from("<I", data, 16 + 8)[0]
    newest = max((0, page), key=lambda place: struct.unpack_from("<Q", data, place + 16 + 48)[0])
    meta = bytearray(data[newest + 16 : newest + 16 + 56])
    transaction = struct.unpack_from("<Q", meta, 48)[0] + 1
    struct.pack_into("<Q", meta, 48, transaction)
    value = 0xCBF29CE484222325
    for byte in meta:
        value = (value ^ byte) * 0x100000001B3 % 2**64
    with path.open("r+b") as stream:
        stream.seek(transaction % 2 * page + 16)
        stream.write(bytes(meta) + struct.pack("<Q", value))
