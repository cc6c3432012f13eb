"""When a program that is held back may go on, and when it is given up: as the agent says, which is asked once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from nodeagent.cli import hold as room
from nodeagent.cli.hold import RefusedError, hold
from nodeagent.local.client import RefusedAnswerError
from nodeagent.local.questions import AgentQuestion, Process
from nodeagent.local.trust import UntrustedPathError

QUESTION = AgentQuestion(process=Process(cgroups=(7, 1), inode=4026532500, name="container box"))
CAPTURED = {"outcome": "captured", "why": ""}
LATE = {"outcome": "late", "why": "no workload of this node selects the cgroup of container box"}


class Agent:
    """Answers in turn, the last answer for ever; exceptions are raised."""

    def __init__(self, *answers: dict[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[AgentQuestion] = []

    def __call__(self, question: AgentQuestion) -> dict[str, Any]:
        self.asked.append(question)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


def refusal(ask: Callable[[AgentQuestion], Any], seconds: float = 0) -> str:
    with pytest.raises(RefusedError) as caught:
        hold(QUESTION, "/run/agent.sock", ask, seconds)
    return str(caught.value)


@pytest.mark.parametrize("outcome", ["captured", "unselected"])
def test_it_goes_on_as_the_agent_says_who_is_asked_once(outcome: str) -> None:
    agent = Agent({"outcome": outcome, "why": "x"})
    hold(QUESTION, "/run/agent.sock", agent, 20)
    (asked,) = agent.asked
    assert 19 < asked.seconds <= 20, "the agent waits, not we"


def test_an_agent_that_starts_or_ends_meanwhile_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "RETRY_SECONDS", 0)
    agent = Agent(FileNotFoundError(2, "No such file"), ConnectionResetError("the agent stops"), ValueError(), CAPTURED)
    hold(QUESTION, "/run/agent.sock", agent, 20)
    assert len(agent.asked) == 4


def test_why_it_is_given_up() -> None:
    assert "not captured after 0 s: no workload of this node selects" in refusal(Agent(LATE))
    gone = refusal(Agent(FileNotFoundError(2, "No such file")))
    assert "no agent answers on /run/agent.sock (No such file)" in gone


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"outcome": "refused", "why": "64 questions"}, "64 questions"),
        (RefusedAnswerError("only root may"), "only root may"),
        (UntrustedPathError("/run belongs to user 7"), "need not be the agent: /run belongs to user 7"),
    ],
)
def test_a_refusal_is_not_waited_out(answer: Any, words: str) -> None:
    agent = Agent(answer)
    assert words in refusal(agent, 20)
    assert len(agent.asked) == 1
