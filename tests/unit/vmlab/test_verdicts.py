from __future__ import annotations

from vmlab.verdicts import Tally, read

JUNIT = """<testsuites><testsuite name="pytest">
<properties><property name="splice" value='{"on": false, "why_not": "no tracepoint"}'/></properties>
<testcase classname="tests.kernel.test_capture" name="test_a[v4]"/>
<testcase classname="tests.kernel.test_capture" name="test_b"><failure message="x">y</failure></testcase>
<testcase classname="tests.kernel.test_capture" name="test_b"><error message="at teardown">y</error></testcase>
<testcase classname="tests.kernel.test_splice_readers" name="test_c">
<properties><property name="degraded" value="why"/></properties></testcase>
<testcase classname="tests.kernel.test_splice" name="test_d">
<properties><property name="degraded" value="why"/></properties><failure message="x"/></testcase>
<testcase classname="tests.netns.test_traffic" name="test_e"/>
<testcase classname="tests.netns.test_traffic" name="test_f"><skipped message="x"/></testcase>
</testsuite></testsuites>"""


def test_what_became_of_the_tests() -> None:
    verdict = read(JUNIT, "1\n", "")
    assert verdict.groups == {
        "capture": Tally(1, 0, ("tests.kernel.test_capture::test_b",)),
        "splice": Tally(0, 1, ("tests.kernel.test_splice::test_d",)),
        "stories": Tally(1, 0, ("tests.netns.test_traffic::test_f",)),
    }
    assert verdict.splice == {"on": False, "why_not": "no tracepoint"}
    assert verdict.unfinished == ""
    assert not verdict.good


def test_only_a_whole_run_without_trouble_is_good() -> None:
    whole = '<testsuite><testcase classname="tests.kernel.test_capture" name="a"/></testsuite>'
    assert read(whole, "0", "[ 1.0] all is well").good
    for status, text in (("124", "ran out of time"), ("2", "ran out of time"), ("", "stopped"), ("3", "status 3")):
        verdict = read(whole, status, "")
        assert text in verdict.unfinished and not verdict.good
    assert "no test ended" in read(None, "", "").unfinished


def test_a_kernel_that_complains_is_not_good() -> None:
    whole = '<testsuite><testcase classname="tests.kernel.test_capture" name="a"/></testsuite>'
    dmesg = "[    1.0] fine\n[    2.0] WARNING: CPU: 0 PID: 1 at net/core/skmsg.c:1 sk_psock_drop\n"
    verdict = read(whole, "0", dmesg)
    assert len(verdict.trouble) == 1 and "skmsg.c" in verdict.trouble[0]
    assert not verdict.good
