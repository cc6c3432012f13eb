"""Holding a program back until it is captured: what ``nodeagent wait`` and ``nodeagent oci-hook`` do.

The agent is asked once, and answers once. Only where no agent answers, or one ends meanwhile, it is asked again.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from nodeagent.capture.cgroups import cgroup2_mount
from nodeagent.capture.held import Held
from nodeagent.config import Config
from nodeagent.containers.facts import StateError
from nodeagent.containers.hooks import creation, record
from nodeagent.local.client import RefusedAnswerError
from nodeagent.local.questions import AgentQuestion, Process
from nodeagent.local.trust import UntrustedPathError

RETRY_SECONDS: Final = 0.1
"""Between two looks for an agent."""
GO_ON: Final = ("captured", "unselected")
"""Outcomes with which the program may start; the agent gives the second where the question is ``optional``."""

Ask = Callable[[AgentQuestion], dict[str, Any]]
"""``local.client.LocalAgent.ask``."""


class RefusedError(Exception):
    """It must not go on; the text says why and what to do."""


def question_of_this_process(uid: int | None) -> AgentQuestion:
    """About whoever calls, who is going to be the user ``uid`` (None: the one that it is). CgroupError, OSError."""
    return AgentQuestion(process=Process.of(Held.process("self", "this process", uid)), uid=uid)


def question_of_container(config: Config, state: str, optional: bool) -> AgentQuestion:
    """About the container whose OCI state this is, which the agent is told of. StateError, CgroupError, OSError."""
    mount = cgroup2_mount(Path("/proc/self/mounts").read_text())
    made = creation(state, mount)
    try:
        record(config.container_records, made)
    except OSError as error:
        raise StateError(f"the agent cannot be told of the container: {error}; are you root?") from error
    container = Process.of(Held.process(made.pid, f"container {made.id}"))
    return AgentQuestion(myself=False, process=container, optional=optional)


def hold(question: AgentQuestion, socket: str, ask: Ask, seconds: float) -> None:
    """Return when the agent says that the program may start. RefusedError after so many seconds. ``socket`` is the
    agent's, for what is said.
    """
    deadline = time.monotonic() + seconds
    while True:
        left = max(0.0, deadline - time.monotonic())
        try:
            answer = ask(replace(question, seconds=left))
            if answer["outcome"] in GO_ON:
                return
            trouble = str(answer["why"])
            if answer["outcome"] == "refused":
                raise RefusedError(trouble)
        except RefusedAnswerError as error:
            raise RefusedError(str(error)) from error
        except UntrustedPathError as error:
            raise RefusedError(f"what answers on {socket} need not be the agent: {error}") from error
        except (OSError, ValueError, KeyError) as error:
            reason = getattr(error, "strerror", None) or error
            trouble = f"no agent answers on {socket} ({reason})"
        if time.monotonic() >= deadline:
            raise RefusedError(f"not captured after {seconds:g} s: {trouble}")
        time.sleep(min(RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
