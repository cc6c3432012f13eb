"""The questions that the agent's socket takes, as bytes and back. Pure."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields
from typing import Any, Final, NoReturn

from control.codec.values import DecodeError, decode, encode
from nodeagent.capture.held import Held

MAX_QUESTION_BYTES: Final = 16 * 1024
"""One line. A process is below at most some dozen cgroups."""
MAX_CGROUPS: Final = 256
MAX_NAME: Final = 200
_UINT32: Final = (1 << 32) - 1


class QuestionError(ValueError):
    """It is none; the text says what is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """What a process sees of itself, or a container runtime's hook of a container (``Held``)."""

    cgroups: tuple[int, ...]
    inode: int
    name: str

    @classmethod
    def of(cls, held: Held) -> Process:
        """As it is sent."""
        return cls(cgroups=held.cgroups, inode=held.inode, name=held.name)

    @property
    def held(self) -> Held:
        """As it was sent."""
        return Held(self.cgroups, self.inode, self.name)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentQuestion:
    """``document`` asks for one by its name; without, the question waits until somebody is captured."""

    document: str = ""
    myself: bool = True
    """The question is about whoever asks; the agent looks for itself where it can, and else believes ``process``."""
    process: Process | None = None
    """Of whom it is; None: everything that is enrolled on the node."""
    uid: int | None = None
    """The user that whoever asks is going to be."""
    seconds: float = 0.0
    optional: bool = False
    """Answer too when it is certain that nobody selects the process."""


_FIELDS: Final = frozenset(field.name for field in fields(AgentQuestion))


def pack(question: AgentQuestion) -> bytes:
    """One line."""
    return json.dumps(encode(question), separators=(",", ":")).encode() + b"\n"


def unpack(line: bytes) -> AgentQuestion:
    """QuestionError if it is none."""
    try:
        document = json.loads(line, parse_constant=_no_number)
        question: AgentQuestion = decode(AgentQuestion, document)
        if unknown := document.keys() - _FIELDS:  # what is not understood must not be answered as something else
            raise QuestionError(f"it says {', '.join(sorted(unknown))}")
    except (ValueError, TypeError, DecodeError, RecursionError) as error:
        raise QuestionError(f"not a question that this agent knows ({error}); is it of another version?") from error
    process = question.process
    if not math.isfinite(question.seconds) or question.seconds < 0:
        raise QuestionError(f"{question.seconds} is not a number of seconds")
    if question.uid is not None and not 0 <= question.uid <= _UINT32:
        raise QuestionError(f"{question.uid} is not a user")
    if process is not None and (len(process.cgroups) > MAX_CGROUPS or len(process.name) > MAX_NAME):
        raise QuestionError(f"more than {MAX_CGROUPS} cgroups, or a name of more than {MAX_NAME} characters")
    return question


def _no_number(text: str) -> NoReturn:
    raise QuestionError(f"{text} is not a number")


def as_answer(document: Any) -> bytes:
    """An answer."""
    return json.dumps({"document": document}).encode()


def as_verdict(outcome: str, why: str) -> bytes:
    """The answer to a question that waited."""
    return json.dumps({"outcome": outcome, "why": why}).encode()


def as_refusal(why: str) -> bytes:
    """The answer to a question that is not answered."""
    return json.dumps({"refused": why}).encode()
