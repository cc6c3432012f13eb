"""The stages of an enrolled cgroup: every pair of stage and signal is either in the table or an error."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nodeagent.enrolment.stages import (
    TABLE,
    CgroupFacts,
    Signal,
    Stage,
    UndefinedStepError,
    advance,
    follow,
    signal_for,
)

GAINS = {Signal.TELL, Signal.LISTEN, Signal.ENTER}
ALL_FACTS = [CgroupFacts(*reasons) for reasons in product(("", "untold"), ("", "unserved"), ("", "unentered"))]


@pytest.mark.parametrize(("stage", "signal"), list(product(Stage, Signal)))
def test_each_step_is_defined_or_an_error(stage: Stage, signal: Signal) -> None:
    if (stage, signal) not in TABLE:
        with pytest.raises(UndefinedStepError, match=f"{signal.name} means nothing to a cgroup that is {stage.label}"):
            follow(stage, signal)
        return
    reached = follow(stage, signal)
    if signal in GAINS:
        assert reached == stage + 1, "nothing is skipped on the way in"
    else:
        assert reached < stage


def test_every_signal_and_every_stage_has_a_use() -> None:
    assert {signal for _, signal in TABLE} == set(Signal)
    assert {stage for stage, _ in TABLE} == set(Stage) == set(TABLE.values())


def wanted(facts: CgroupFacts) -> Stage:
    if facts.untold:
        return Stage.FOUND
    if facts.unserved:
        return Stage.TOLD
    return Stage.SERVED if facts.unentered else Stage.CAPTURED


@pytest.mark.parametrize(("stage", "facts"), list(product(Stage, ALL_FACTS)))
def test_facts_lead_to_one_stage_wherever_it_begins(stage: Stage, facts: CgroupFacts) -> None:
    signal = signal_for(stage, facts)
    assert signal is None or (stage, signal) in TABLE, "what the facts say is never an error"
    assert advance(stage, facts) is wanted(facts)
    assert (facts.why == "") is (wanted(facts) is Stage.CAPTURED)


@given(st.lists(st.sampled_from(ALL_FACTS)))
def test_whatever_happens_before_only_the_last_facts_count(history: list[CgroupFacts]) -> None:
    stage = Stage.FOUND
    for facts in history:
        before, stage = stage, advance(stage, facts)
        assert stage is wanted(facts)
        assert advance(stage, facts) is stage, before
