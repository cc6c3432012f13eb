"""Labels that containerd keeps of its containers (of ``ctr`` and of Kubernetes), in its database
``io.containerd.metadata.v1.bolt/meta.db`` below its root, written when a container is created.

containerd holds that database's lock as long as it runs, and not while a hook runs for longer than that: it is read
without the lock (``bolt.read_beside_writer``).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from nodeagent.containers.bolt import Bucket, last_change, read_beside_writer
from nodeagent.containers.facts import StateError

DATABASE = Path("io.containerd.metadata.v1.bolt/meta.db")

Labels = dict[str, dict[str, str]]
"""By the container's id."""


def containerd_change(root: Path) -> tuple[int, ...]:
    """Another one when something was written; empty if containerd keeps nothing there. StateError as below."""
    try:
        return last_change(root / DATABASE)
    except FileNotFoundError:
        return ()


def containerd_labels(root: Path) -> Labels:
    """Of all of its containers. An id that is a container of several of its namespaces has none: nothing tells which
    is meant. StateError if the database cannot be read, or was written to each time.
    """
    try:
        data = read_beside_writer(root / DATABASE)
    except FileNotFoundError:
        return {}
    except BlockingIOError as error:
        raise StateError(f"{root / DATABASE}: containerd wrote to it each time it was read") from error
    found: Labels = {}
    for identifier, labels in _containers(data):
        found[identifier] = {} if identifier in found else labels
    return found


def _containers(data: bytes) -> Iterator[tuple[str, dict[str, str]]]:
    version = Bucket.root(data).bucket(b"v1")
    for _, namespace in version.buckets() if version is not None else ():
        containers = namespace.bucket(b"containers")
        for name, container in containers.buckets() if containers is not None else ():
            labels = container.bucket(b"labels")
            pairs = labels.values() if labels is not None else ()
            yield name.decode(errors="replace"), {_text(key): _text(value) for key, value in pairs}


def _text(data: bytes) -> str:
    return data.decode(errors="replace")
