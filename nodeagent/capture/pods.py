"""Cgroups of Kubernetes pods, by the two ways in which kubelets name them.

cgroupfs:  ``kubepods/burstable/pod<uid>``, ``kubepods/pod<uid>`` (guaranteed)
systemd:   ``kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod<uid with underscores>.slice``

A kubelet may have a parent for them (``--cgroup-root``): ``kubelet/kubepods`` or
``kubelet.slice/kubelet-kubepods.slice``.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Final

MAX_DIRECTORIES: Final = 8192
"""That one search looks into; a node has some hundred pods."""
_PARENT = re.compile(r"(kubelet|kubepods|burstable|besteffort)\Z|.*\.slice\Z")
"""Below which pods are looked for: nobody but root makes cgroups in those. What lies below a pod may be its own."""


def pod_cgroups(root: Path, uid: str, looked_in: set[Path]) -> list[Path]:
    """Directories of the pod below ``root``; none is ordinary (it does not run here). ``looked_in``: takes where we
    looked.
    """
    escaped = re.escape(uid.replace("-", "_"))
    of_systemd = re.compile(rf"([a-z0-9_]+-)*kubepods(-burstable|-besteffort)?-pod{escaped}\.slice\Z")
    found: list[Path] = []
    queue = [(root, False)]
    looked = 0
    while queue and (looked := looked + 1) <= MAX_DIRECTORIES:
        directory, of_pods = queue.pop()
        looked_in.add(directory)
        try:
            with os.scandir(directory) as entries:
                for entry in entries:
                    if of_systemd.match(entry.name) or (of_pods and entry.name == f"pod{uid}"):
                        found.append(Path(entry.path))
                    elif _PARENT.match(entry.name) and "-pod" not in entry.name and entry.is_dir(follow_symlinks=False):
                        queue.append((Path(entry.path), of_pods or entry.name == "kubepods"))
        except (FileNotFoundError, NotADirectoryError):
            continue
    return sorted(found)
