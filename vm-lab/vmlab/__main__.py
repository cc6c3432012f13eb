"""``python -m vmlab KERNEL...``: boot each, test inside, tell."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Final

from vmlab import machine, table, verdicts
from vmlab.archive import Archive, ArchiveError
from vmlab.baggage import BaggageError
from vmlab.machine import Acceleration, MachineError, Run
from vmlab.releases import NoSuchKernelError

REPOSITORY: Final = Path(__file__).resolve().parent.parent.parent
README: Final = REPOSITORY / "vm-lab/README.md"
MATRIX: Final = ("6.1", "6.12", "6.18", "7.x")
MINUTES: Final = 30.0
"""For the tests of one kernel."""
SOME: Final = ("-p", "vmlab.thin", "@vm-lab/some")
"""What proves most per minute: every test once (``thin``) of what depends on the kernel; nothing that measures."""
ALL: Final = ("tests/kernel", "tests/netns")


def selection(wish: str) -> tuple[str, ...]:
    """The arguments of pytest for ``some``, ``all``, or what pytest itself understands."""
    return {"": SOME, "some": SOME, "all": ALL}.get(wish) or tuple(wish.split())


def main() -> int:
    """0 if every kernel passed."""
    parser = argparse.ArgumentParser(prog="make vm", description="run the kernel and netns tests on other kernels")
    parser.add_argument("kernels", nargs="*", default=MATRIX, help="6.1, or 7.x for the newest 7 (%(default)s)")
    parser.add_argument("--tests", default="some", help="some, all, or arguments of pytest (%(default)s)")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="for one kernel's tests (%(default)s)")
    parser.add_argument("--accel", choices=["", "kvm", "tcg"], default="", help="KVM or emulation; else what works")
    parser.add_argument("--keep", action="store_true", help="write the table into vm-lab/README.md")
    options = parser.parse_args()
    how = machine.here(options.accel)
    print(f"{'virtualized' if how.kvm else 'emulated'}: {how.why}", flush=True)
    good = True
    try:
        archive = Archive(REPOSITORY / "build/vm")
        archive.refresh()
        for series in options.kernels:
            row, verdict = examine(archive, series, options.tests, options.minutes * 60, how)
            good &= verdict.good
            print(table.render([row]), flush=True)
            if options.keep and not verdict.told:
                print(f"the row of {series} in {README.name} stays as it was: {verdict.unfinished}", file=sys.stderr)
            elif options.keep:
                README.write_text(table.put(README.read_text(), {series: row}))
    except (ArchiveError, BaggageError, MachineError, NoSuchKernelError) as error:
        print(f"vm-lab: {error}", file=sys.stderr)
        return 2
    return 0 if good else 1


def examine(
    archive: Archive, series: str, wish: str, seconds: float, how: Acceleration
) -> tuple[table.Row, verdicts.Verdict]:
    """One kernel."""
    kernel = archive.kernel(series)
    place = REPOSITORY / "build/vm/results" / series
    print(f"{kernel.release}: logs in {place.relative_to(REPOSITORY)} (pytest.log, console.log)", flush=True)
    vng = REPOSITORY / "build/vm/venv/bin/vng"
    took = machine.boot(kernel, Run(REPOSITORY, place, selection(wish), seconds), how, vng)
    junit = place / "junit.xml"
    verdict = verdicts.read(
        junit.read_text() if junit.exists() and junit.stat().st_size else None,
        _text(place / "status"), _text(place / "dmesg.log"),
    )  # fmt: skip
    for name in (name for tally in verdict.groups.values() for name in tally.failed):
        print(f"  failed: {name}", flush=True)
    told = f"{'KVM' if how.kvm else 'emulated'}, {wish if wish in ('some', 'all') else 'picked'}, {took / 60:.0f} min"
    (place / "verdict.json").write_text(json.dumps(asdict(verdict), indent=1))
    return table.row(series, _text(place / "release").strip() or kernel.release, verdict, how=told), verdict


def _text(path: Path) -> str:
    return path.read_text(errors="replace") if path.exists() else ""


if __name__ == "__main__":
    sys.exit(main())
