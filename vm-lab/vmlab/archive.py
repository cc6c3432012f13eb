"""Debian's archive through a configuration of our own: the host's sources, lists and packages are not touched, and
apt checks signatures as always.
"""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmlab import releases

KEYRING: Final = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
MIRROR: Final = "http://deb.debian.org"
SUITES: Final = (
    ("debian", "bookworm"), ("debian-security", "bookworm-security"),
    ("debian", "trixie"), ("debian-security", "trixie-security"), ("debian", "trixie-backports"),
)  # fmt: skip
APT_SECONDS: Final = 300
"""For the lists, and again for a kernel of 170 MB."""
UNPACK_SECONDS: Final = 180


class ArchiveError(Exception):
    """apt or dpkg failed; the text holds what it said and what to do."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """An unpacked kernel."""

    release: str
    image: Path


class Archive:
    """``directory`` holds apt's lists and the kernels."""

    def __init__(self, directory: Path) -> None:
        self._apt = directory / "apt"
        self._kernels = directory / "kernels"

    def refresh(self) -> None:
        """Fetch the lists of packages."""
        if not KEYRING.exists():
            raise ArchiveError(f"{KEYRING} is missing, so nothing could be verified: install debian-archive-keyring")
        for path in ("lists/partial", "cache/archives/partial"):
            (self._apt / path).mkdir(parents=True, exist_ok=True)
        (self._apt / "status").touch()
        lines = [f"deb [signed-by={KEYRING}] {MIRROR}/{archive} {suite} main\n" for archive, suite in SUITES]
        (self._apt / "sources.list").write_text("".join(lines))
        self._run("apt-get", "--error-on=any", "update")

    def kernel(self, series: str) -> Kernel:
        """The newest kernel of a series, downloaded and unpacked if it is not yet."""
        found = self._run("apt-cache", "search", "--names-only", "^linux-image-")
        release = releases.newest((line.partition(" ")[0] for line in found.splitlines()), series)
        place = self._kernels / release
        if not (place / "complete").exists():
            shutil.rmtree(place, ignore_errors=True)
            self._unpack(release, place)
            (place / "complete").touch()
        return Kernel(release, place / f"boot/vmlinuz-{release}")

    def _unpack(self, release: str, place: Path) -> None:
        packages = releases.packages(release, self._run("apt-cache", "depends", f"linux-image-{release}"))
        debs = place / "debs"
        debs.mkdir(parents=True)
        self._run("apt-get", "-o", "APT::Sandbox::User=root", "download", *packages, cwd=debs)
        for deb in debs.glob("*.deb"):
            _call("dpkg-deb", "--extract", str(deb), str(place), seconds=UNPACK_SECONDS)
        shutil.rmtree(debs)
        if not (place / "lib").exists():  # newer packages have /usr/lib only; depmod and vng look in /lib
            (place / "lib").symlink_to("usr/lib")
        beside, image = place / f"lib/modules/{release}/vmlinuz", place / f"boot/vmlinuz-{release}"
        if beside.exists() and not image.exists():  # newer packages keep the image with its modules
            image.parent.mkdir(exist_ok=True)
            shutil.copy2(beside, image)
        if not beside.parent.is_dir() or not image.exists():
            raise ArchiveError(f"{', '.join(packages)} hold no kernel and modules of {release} as we know them")
        packed = [str(path) for path in beside.parent.rglob("*.ko.xz")]
        if packed:  # in a guest that is emulated it would take minutes
            _call("xz", "--decompress", *packed, seconds=UNPACK_SECONDS)
        _call("depmod", "--basedir", str(place), release, seconds=UNPACK_SECONDS)

    def _run(self, command: str, *arguments: str, cwd: Path | None = None) -> str:
        options = {
            "Dir::Etc::sourcelist": self._apt / "sources.list", "Dir::Etc::sourceparts": "/dev/null",
            "Dir::State::lists": self._apt / "lists", "Dir::State::status": self._apt / "status",
            "Dir::Cache": self._apt / "cache", "Acquire::Retries": "2", "APT::Architecture": releases.FLAVOUR,
        }  # fmt: skip
        words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
        return _call(command, "-q", *words, *arguments, seconds=APT_SECONDS, cwd=cwd)


def _call(*command: str, seconds: float, cwd: Path | None = None) -> str:
    what = " ".join(command[:1] + tuple(w for w in command[1:] if not w.startswith(("-", "Dir::", "Acq", "APT::")))[:3])
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False, cwd=cwd)
    except FileNotFoundError as error:
        raise ArchiveError(f"{command[0]} is not installed: run make setup-vm") from error
    except subprocess.TimeoutExpired as error:
        raise ArchiveError(f"{what} did not end within {seconds:g} s: is {MIRROR} reachable?") from error
    if done.returncode:
        raise ArchiveError(f"{what} failed: {(done.stderr or done.stdout).strip()[-800:]}")
    return done.stdout
