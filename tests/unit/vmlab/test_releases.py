from __future__ import annotations

import pytest
from vmlab.releases import NoSuchKernelError, newest, packages

NAMES = [
    f"linux-image-{release}"
    for release in (
        "6.1.0-9-amd64", "6.1.0-56-amd64", "6.1.0-57-cloud-amd64", "6.1.0-57-rt-amd64", "6.12.9+deb13-amd64",
        "6.12.90+deb13-amd64", "6.12.90+deb13.1-amd64", "6.12.118+deb12-amd64", "6.12.118+deb13-amd64-dbg",
        "6.12-amd64", "amd64", "7.2.12+deb13-amd64", "7.3.4+deb13-amd64", "7.10.1+deb13-cloud-amd64",
    )
]  # fmt: skip


@pytest.mark.parametrize(
    "series, release",
    [
        ("6.1", "6.1.0-56-amd64"),
        ("6.12", "6.12.118+deb12-amd64"),
        ("7.2", "7.2.12+deb13-amd64"),
        ("7.x", "7.3.4+deb13-amd64"),
        ("6.x", "6.12.118+deb12-amd64"),
    ],
)
def test_numbers_are_compared_as_numbers_and_other_flavours_are_not_taken(series: str, release: str) -> None:
    assert newest(NAMES, series) == release


def test_a_rebuild_is_newer_and_no_release_is_a_series() -> None:
    assert newest([name for name in NAMES if "118" not in name], "6.12") == "6.12.90+deb13.1-amd64"
    with pytest.raises(NoSuchKernelError):
        newest(["linux-image-6.12-amd64"], "6.12")  # a meta package


def test_what_there_is_instead_is_named() -> None:
    with pytest.raises(NoSuchKernelError, match=r"no kernel 5\.10; it has 6\.1, 6\.12, 7\.2, 7\.3"):
        newest(NAMES, "5.10")
    with pytest.raises(NoSuchKernelError, match="none at all"):
        newest([], "6.1")


@pytest.mark.parametrize("series", ["", "6", "6.1.0", "six", "6.1;reboot"])
def test_what_is_no_series_is_refused(series: str) -> None:
    with pytest.raises(NoSuchKernelError, match="write it as"):
        newest(NAMES, series)


def test_where_the_kernel_lies() -> None:
    old = "linux-image-6.1.0-56-amd64\n  Depends: kmod\n |Depends: initramfs-tools\n"
    assert packages("6.1.0-56-amd64", old) == ["linux-image-6.1.0-56-amd64"]
    release = "7.3.4+deb13-amd64"
    new = "".join(f"  Depends: linux-{part}-{release}\n" for part in ("base", "modules", "binary"))
    assert packages(release, new) == [f"linux-binary-{release}", f"linux-modules-{release}"]
