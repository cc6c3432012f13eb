"""Cgroups of pods, in the trees that kubelets make."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.capture.pods import pod_cgroups

UID = "0ba7f3c2-6a1e-4d1c-9f8e-2c1f3a4b5d6e"
LOW = UID.replace("-", "_")
STATIC = "0ba7f3c26a1e4d1c9f8e2c1f3a4b5d6e"


@pytest.mark.parametrize(
    "path",
    [
        f"kubepods/burstable/pod{UID}",
        f"kubepods/besteffort/pod{UID}",
        f"kubepods/pod{UID}",
        f"kubelet/kubepods/burstable/pod{UID}",
        f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice",
        f"kubepods.slice/kubepods-pod{LOW}.slice",
        f"kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/kubelet-kubepods-besteffort-pod{LOW}.slice",
    ],
)
def test_both_ways_of_naming(tmp_path: Path, path: str) -> None:
    pod = tmp_path / path
    (pod / "cri-containerd-0123.scope").mkdir(parents=True)
    (pod.parent / f"pod{'f' * 8}").mkdir()
    assert pod_cgroups(tmp_path, UID, set()) == [pod]
    assert pod_cgroups(tmp_path, STATIC, set()) == []


def test_a_static_pod(tmp_path: Path) -> None:
    pod = tmp_path / f"kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{STATIC}.slice"
    pod.mkdir(parents=True)
    assert pod_cgroups(tmp_path, STATIC, set()) == [pod]


@pytest.mark.parametrize(
    "path",
    [
        f"system.slice/evil.service/kubepods/pod{UID}",
        f"kubepods/burstable/podffffffff-6a1e-4d1c-9f8e-2c1f3a4b5d6e/kubepods/pod{UID}",
        f"kubepods.slice/kubepods-pod{STATIC}.slice/kubepods-pod{LOW}.slice",
        f"pod{UID}",
        f"user.slice/user-1000.slice/user@1000.service/kubepods.slice/kubepods-pod{LOW}.slice",
    ],
)
def test_what_a_process_could_make_by_itself_does_not_count(tmp_path: Path, path: str) -> None:
    """Below a service, a pod or a container cgroups may be its own (delegation)."""
    (tmp_path / path).mkdir(parents=True)
    assert pod_cgroups(tmp_path, UID, set()) == []
