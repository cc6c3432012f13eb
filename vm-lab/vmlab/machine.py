"""Boots a kernel on this file system and runs the tests inside, bounded in time."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from vmlab import baggage
from vmlab.archive import Kernel
from vmlab.baggage import SYSTEM_PATH

KVM: Final = Path("/dev/kvm")
MEMORY: Final = "4G"
CPUS_EMULATED, CPUS_VIRTUALIZED = 1, 2
"""Emulated processors wait for each other whenever the host runs only one of them."""
CLOCKS: Final = ("clocksource=hpet", "no_timer_check")
"""The guest cannot measure how fast an emulated TSC is while the host is busy: its clock ran ten times too fast. Nor
may it panic because no tick came while it counted a few million cycles ("IO-APIC + timer doesn't work!").
"""
PROCESSOR: Final = "max,-erms,-fsrm,-smap,-smep,-la57"
"""Without what an emulator does slowly: strings byte by byte, guards around user memory, five levels of page tables."""
KERNEL_OPTIONS: Final = (
    "quiet", "mitigations=off", "nokaslr", "audit=0", "nowatchdog", "rcupdate.rcu_expedited=1",
    "init_on_alloc=0", "init_on_free=0", "kfence.sample_interval=0",
)  # fmt: skip
"""Nothing that decides what a system call answers; what costs an emulator time and proves nothing here."""
BOOT_SECONDS: Final = 900.0
"""From nothing to the first test and from the last one to nothing, under emulation on a busy machine."""
SLOW_EMULATED, SLOW_VIRTUALIZED = 12.0, 3.0
"""How much longer than here a test may take (the variable MESH_SLOW)."""
BAGGAGE: Final = "baggage.tar"
"""The guest sees it as a disk: read over 9p it takes minutes."""
HOST: Final = (
    "-fsdev local,id=host,path=/,security_model=none,readonly=on,multidevs=remap"
    " -device virtio-9p-pci,fsdev=host,mount_tag=host"
)
"""This file system a second time: virtme-ng's own mount of it keeps nothing in memory, not even names."""
SHARED: Final = "/mnt"
"""Where the guest sees the directory of results."""


class MachineError(Exception):
    """There is nothing to boot with."""


@dataclass(frozen=True, slots=True)
class Acceleration:
    """Whether the processor runs the guest, or QEMU emulates one; ``why`` it does."""

    kvm: bool
    why: str

    @property
    def slow(self) -> float:
        return SLOW_VIRTUALIZED if self.kvm else SLOW_EMULATED

    @property
    def cpus(self) -> int:
        return CPUS_VIRTUALIZED if self.kvm else CPUS_EMULATED


def acceleration(cpuinfo: str, *, kvm_opens: bool, wish: str = "") -> Acceleration:
    """``cpuinfo``: /proc/cpuinfo. ``wish``: ``kvm`` or ``tcg``, or nothing: what works.

    A /dev/kvm without vmx or svm is one in software, which boots only kernels that are made for it.
    """
    flags = next((set(line.split()) for line in cpuinfo.splitlines() if line.startswith("flags")), set())
    if wish:
        return Acceleration(wish == "kvm", f"asked for with ACCEL={wish}")
    if not kvm_opens:
        return Acceleration(False, "/dev/kvm is not there or may not be opened")
    if not flags & {"vmx", "svm"}:
        return Acceleration(False, "/dev/kvm is there, but this processor shows neither vmx nor svm")
    return Acceleration(True, "/dev/kvm is usable")


def here(wish: str) -> Acceleration:
    """What this machine offers."""
    opens = os.access(KVM, os.R_OK | os.W_OK)
    return acceleration(Path("/proc/cpuinfo").read_text(), kvm_opens=opens, wish=wish)


@dataclass(frozen=True, slots=True)
class Run:
    """What a guest is to do."""

    repository: Path
    directory: Path
    """For the results and logs; the guest may write there."""
    tests: tuple[str, ...]
    """Arguments of pytest."""
    seconds: float
    """For the tests; what has not run by then is reported as not run."""


def boot(kernel: Kernel, run: Run, how: Acceleration, vng: Path) -> float:
    """The seconds it took. What came of it is in ``run.directory``."""
    missing = [
        name for name in ("qemu-system-x86_64", "busybox", "depmod") if shutil.which(name, path=SYSTEM_PATH) is None
    ]
    if missing or not vng.exists():
        raise MachineError(f"{', '.join(missing) or vng} is not installed: run make setup-vm")
    shutil.rmtree(run.directory, ignore_errors=True)
    run.directory.mkdir(parents=True)
    baggage.precompile(run.repository, run.tests)
    baggage.pack(run.repository, run.directory / BAGGAGE)
    home = run.directory / "home"
    home.mkdir()
    environment = {"PATH": f"{vng.parent}:{SYSTEM_PATH}", "HOME": str(home), "LANG": "C.UTF-8"}
    began = time.monotonic()
    with (run.directory / "console.log").open("wb") as console:
        process = subprocess.Popen(
            command(kernel, run, how, vng), stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=environment,
            start_new_session=True, cwd=run.repository,
        )  # fmt: skip
        try:
            process.wait(run.seconds + BOOT_SECONDS)
        except subprocess.TimeoutExpired:
            console.write(b"\nvmlab: the machine did not shut down in time and was killed\n")
        finally:
            _end(process)
    (run.directory / BAGGAGE).unlink(missing_ok=True)
    return time.monotonic() - began


def command(kernel: Kernel, run: Run, how: Acceleration, vng: Path) -> list[str]:
    """The words of the command that boots."""
    inside = [
        str(run.repository / "vm-lab/inside"), SHARED, str(run.repository), str(baggage.python_home()), f"{how.slow:g}",
        f"{run.seconds:g}", *run.tests,
    ]  # fmt: skip
    qemu = f"-drive file={run.directory / BAGGAGE},if=virtio,format=raw,readonly=on {HOST}"
    if not how.kvm:
        qemu += f" -cpu {PROCESSOR}"
    return [
        str(vng), "--run", str(kernel.image), "--cpus", str(how.cpus), "--memory", MEMORY, "--user", "root",
        "--force-9p", "--verbose", f"--rwdir={SHARED}={run.directory}", f"--qemu-opts={qemu}",
        *([] if how.kvm else ["--disable-kvm"]),
        *(f"--append={word}" for word in (*KERNEL_OPTIONS, *(() if how.kvm else CLOCKS))),
        "--exec", " ".join(map(_quoted, ["bash", *inside])),
    ]  # fmt: skip


def _quoted(word: str) -> str:
    return "'" + word.replace("'", "'\\''") + "'"


def _end(process: subprocess.Popen[bytes]) -> None:
    """vng, QEMU and whatever else it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
