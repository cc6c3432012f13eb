"""What all tests share: kernel tests are skipped where they cannot run, unless MESH_REQUIRE_KERNEL=1 forbids it."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

REQUIRE_KERNEL = os.environ.get("MESH_REQUIRE_KERNEL") == "1"
PRIVILEGED = ("kernel", "netns")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark by folder, and skip what needs root when there is none."""
    for item in items:
        floor = next((name for name in PRIVILEGED if f"tests/{name}/" in item.path.as_posix()), None)
        if floor is None:
            continue
        item.add_marker(getattr(pytest.mark, floor))
        if os.geteuid() != 0:
            item.add_marker(pytest.mark.skip(reason=f"the {floor} tests need root: make {floor}"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """In CI a kernel test that does not run proves nothing: count it as failed."""
    report = yield
    if REQUIRE_KERNEL and report.skipped and any(item.get_closest_marker(name) for name in PRIVILEGED):
        report.outcome = "failed"
        report.longrepr = f"skipped, but MESH_REQUIRE_KERNEL=1 wants it to run: {report.longrepr}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(
    collector: pytest.Collector,
) -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """The same for a whole file that skips itself."""
    report = yield
    floors = [f"tests/{name}" for name in PRIVILEGED]
    if REQUIRE_KERNEL and report.skipped and any(floor in collector.nodeid for floor in floors):
        report.outcome = "failed"
        report.longrepr = f"skipped, but MESH_REQUIRE_KERNEL=1 wants it to run: {report.longrepr}"
    return report
