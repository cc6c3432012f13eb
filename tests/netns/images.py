"""An OCI image of one layer, as a file that container runtimes import (image-spec, image-layout)."""

from __future__ import annotations

import hashlib
import io
import json
import platform
import tarfile
from pathlib import Path
from typing import Any

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def write_image(path: Path, name: str, root: Path, *command: str) -> None:
    """The image ``name`` (with its tag): the files below ``root``, which run ``command``."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        tar.add(root, arcname=".")
    blobs: dict[str, bytes] = {}
    config = {
        "architecture": ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": {"Cmd": list(command), "Env": ["PATH=/bin"]},
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer.getvalue())]},
    }
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "config": _blob(blobs, CONFIG, json.dumps(config).encode()),
        "layers": [_blob(blobs, LAYER, layer.getvalue())],
    }
    entry = _blob(blobs, MANIFEST, json.dumps(manifest).encode())
    entry["annotations"] = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
    files = {
        "oci-layout": b'{"imageLayoutVersion": "1.0.0"}',
        "index.json": json.dumps({"schemaVersion": 2, "manifests": [entry]}).encode(),
        **{f"blobs/sha256/{digest.removeprefix('sha256:')}": data for digest, data in blobs.items()},
    }
    with tarfile.open(path, "w") as tar:
        for where, data in files.items():
            member = tarfile.TarInfo(where)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))


def _digest(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


def _blob(blobs: dict[str, bytes], kind: str, data: bytes) -> dict[str, Any]:
    digest = _digest(data)
    blobs[digest] = data
    return {"mediaType": kind, "digest": digest, "size": len(data)}
