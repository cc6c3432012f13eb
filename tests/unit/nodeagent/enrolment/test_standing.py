"""Whether a process is captured, and if not, why not."""

from __future__ import annotations

from nodeagent.capture.held import Held
from nodeagent.capture.plan import User
from nodeagent.enrolment.stages import CgroupFacts
from nodeagent.enrolment.standing import CaptureStanding, EnrolledCgroup, NodeEnrolment

SEEN = {7: (4026,), 8: (), 9: (4026,)}
IN = CgroupFacts("", "", "")


def node(**why: CgroupFacts) -> NodeEnrolment:
    """Cgroups 7, 8 and 9 of the workloads w7 to w9, each with its facts; 5 is contested."""
    enrolment = NodeEnrolment(lambda number: SEEN.get(number, ()))
    enrolment.found({7: "w7", 8: "w8", 9: "w9"}, {5: ("a", "b")}, 1)

    def facts(number: int, state: EnrolledCgroup) -> CgroupFacts:
        assert state.edition == 1
        return why.get(f"w{number}", IN)

    enrolment.look(facts)
    return enrolment


def held(*cgroups: int, inode: int = 4026) -> Held:
    return Held(cgroups, inode, "container box")


def test_the_nearest_enrolled_cgroup_decides() -> None:
    enrolment = node(w9=CgroupFacts("", "not there yet", ""))
    assert enrolment.standing(held(1, 7, 9)) == CaptureStanding(True)
    assert enrolment.standing(held(9, 7)) == CaptureStanding(False, "workload w9: not there yet")
    assert not enrolment.standing(held(5, 7)).captured, "a contested one inside of another's"
    assert enrolment.standing(held(7, 5)).captured


def test_a_user_of_a_cgroup_is_nearer_than_the_cgroup() -> None:
    enrolment, user = NodeEnrolment(lambda _: (4026,)), User(7, 1001).number
    enrolment.found({user: "hers", 7: "the rest"}, {}, 1)
    enrolment.look(lambda number, _: IN if number == user else CgroupFacts("no", "", ""))
    assert enrolment.standing(held(user, 7)).captured
    assert not enrolment.standing(held(User(7, 1002).number, 7)).captured


def test_why_somebody_is_not_captured() -> None:
    assert node().standing(held(1, 2)) == CaptureStanding(
        False, "no workload of this node selects the cgroup of container box", unselected=True
    )
    assert "cgroup 5 is selected by a and b" in node().standing(held(5)).why
    assert not node().standing(held(5)).unselected
    assert "not seen container box in network namespace 1 yet" in node().standing(held(7, inode=1)).why
    assert "not seen" in node().standing(held(8)).why, "nobody was seen in it at all"


def test_the_node_is_captured_when_every_cgroup_is() -> None:
    assert node().standing_of_node() == CaptureStanding(True)
    standing = node(w8=CgroupFacts("no worker", "", "")).standing_of_node()
    assert standing == CaptureStanding(False, "cgroup 8 of w8: no worker")
    many = NodeEnrolment(lambda _: ())
    many.found({number: "w" for number in range(10)}, {}, 1)
    assert many.standing_of_node().why.endswith("and 7 more"), "a bounded text"


def test_what_is_not_found_any_more_is_forgotten_and_a_new_owner_begins_anew() -> None:
    enrolment = node()
    enrolment.found({7: "w7", 9: "new"}, {}, 2)
    assert enrolment.document("w8") == {} and len(enrolment) == 2
    assert enrolment.document("w7") == {"7": {"stage": "captured", "why": ""}}
    assert enrolment.document("new")["9"]["stage"] == "found"
