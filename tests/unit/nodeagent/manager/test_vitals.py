"""When the service manager hears READY and WATCHDOG."""

from __future__ import annotations

from nodeagent.enrolment.standing import CaptureStanding
from nodeagent.lifecycle import Lifecycle, Phase
from nodeagent.manager.link import WorkerLink
from nodeagent.manager.vitals import SETTLE_SECONDS, SILENT_SECONDS, Vitals
from nodeagent.notify import ServiceManager

WATCHDOG = 60.0


class Systemd(ServiceManager):
    def __init__(self, watchdog: float = WATCHDOG) -> None:
        super().__init__("", watchdog)
        self.heard: list[str] = []

    def _send(self, text: str) -> None:
        self.heard.append(text)


class Scene:
    def __init__(self, watchdog: float = WATCHDOG) -> None:
        self.systemd = Systemd(watchdog)
        self.lifecycle = Lifecycle()
        self.blocked = "no state"
        self.lifecycle.blocks("state", lambda: self.blocked)
        self.lifecycle.advance(Phase.RUNNING)
        self.standing = CaptureStanding(False, "cgroup 7: not yet")
        self.links = [WorkerLink(index, lambda *_: None) for index in range(2)]
        self.now = self.links[0].spoke
        self.vitals = Vitals(self.systemd, self.lifecycle, lambda: self.standing, lambda: self.links, lambda: self.now)

    def look(self, after: float = 0.0, *, alive: bool = True) -> list[str]:
        """What it says after so many seconds, in which the workers spoke, or did not."""
        self.now += after
        for link in self.links if alive else ():
            link.spoke = self.now
        self.systemd.heard.clear()
        self.vitals.look()
        return self.systemd.heard


def test_ready_is_said_once_when_everything_is_captured() -> None:
    scene = Scene(watchdog=0)
    assert scene.look() == ["STATUS=not ready: no state"]
    scene.standing = CaptureStanding(True)
    assert scene.look(1000) == [], "nothing is known of the mesh, so that nothing is captured means nothing"
    scene.blocked, scene.standing = "", CaptureStanding(False, "cgroup 7: not yet")
    assert scene.look() == ["STATUS=serving; not captured yet: cgroup 7: not yet"]
    scene.standing = CaptureStanding(True)
    assert scene.look(1) == ["STATUS=serving", "READY=1"]
    assert scene.look(1) == []


def test_one_that_cannot_be_captured_keeps_ready_back_for_a_time_only() -> None:
    scene = Scene(watchdog=0)
    scene.look(1000)
    scene.blocked = ""
    assert "READY=1" not in scene.look()
    assert "READY=1" not in scene.look(SETTLE_SECONDS - 1)
    assert "READY=1" in scene.look(1)


def test_a_sign_of_life_in_each_third_of_the_time_that_is_given() -> None:
    scene = Scene()
    beats = [scene.look(1).count("WATCHDOG=1") for _ in range(int(WATCHDOG))]
    assert sum(beats) == 3
    assert not any("WATCHDOG=1" in Scene(watchdog=0).look(n) for n in range(100)), "nobody asked for it"


def test_one_worker_that_does_not_answer_stops_the_signs_of_life() -> None:
    scene = Scene()
    scene.links[1].spoke += SILENT_SECONDS
    assert "WATCHDOG=1" in scene.look(SILENT_SECONDS, alive=False)
    scene.links[0].spoke = scene.now
    assert scene.vitals.silent(scene.now + SILENT_SECONDS) == []
    assert scene.vitals.silent(scene.now + SILENT_SECONDS + 1) == [0, 1]
    assert "WATCHDOG=1" not in scene.look(WATCHDOG, alive=False)
    scene.links = []
    assert "WATCHDOG=1" in scene.look(), "those that have ended are started again by the supervisor"
