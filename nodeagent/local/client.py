"""The other end of the agent's socket, for the command line: blocking."""

from __future__ import annotations

import contextlib
import json
import os
import socket
from pathlib import Path
from typing import Any, Final

from nodeagent.local.peer import peer_user
from nodeagent.local.questions import AgentQuestion, pack
from nodeagent.local.trust import UntrustedPathError, check_socket, open_directory, trusted_users

ANSWER_SECONDS: Final = 15.0
"""For an answer to arrive, beyond the time that the question itself waits."""
MAX_ANSWER_BYTES: Final = 256 * 1024 * 1024


class RefusedAnswerError(Exception):
    """The agent does not answer this question; the text says why."""


class LocalAgent:
    """The agent whose socket is at ``path``."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def document(self, name: str) -> Any:
        """A document of the agent. OSError, UntrustedPathError, RefusedAnswerError, ValueError."""
        return self.ask(AgentQuestion(document=name))["document"]

    def ask(self, question: AgentQuestion) -> dict[str, Any]:
        """The answer. OSError if no agent answers, UntrustedPathError if what answers may be somebody else,
        RefusedAnswerError, ValueError if it is no answer.
        """
        with contextlib.closing(self._connect()) as connection:
            connection.settimeout(question.seconds + ANSWER_SECONDS)
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # it may have refused us already
                connection.sendall(pack(question))
            raw = _read(connection)
        if not raw:
            raise ConnectionResetError("the agent stops")
        answer = json.loads(raw)
        if not isinstance(answer, dict):
            raise ValueError("what answers is no agent of this version")
        if "refused" in answer:
            raise RefusedAnswerError(answer["refused"])
        return answer

    def _connect(self) -> socket.socket:
        users = trusted_users()
        directory = open_directory(self.path.parent, users)
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            check_socket(directory, self.path.name, users)
            connection.settimeout(ANSWER_SECONDS)
            # by the descriptor: the very directory that was looked at, and however long its path is
            connection.connect(f"/proc/self/fd/{directory}/{self.path.name}")
            user = peer_user(connection)
            if user not in users:
                raise UntrustedPathError(
                    f"user {user} listens on {self.path}, who is neither root nor you: it is no agent of this host"
                )
        except BaseException:
            connection.close()
            raise
        finally:
            os.close(directory)
        return connection


def _read(connection: socket.socket) -> bytes:
    answer = bytearray()
    with contextlib.suppress(ConnectionResetError):  # it ended without having read the question; what it said holds
        while piece := connection.recv(1 << 16):
            answer += piece
            if len(answer) > MAX_ANSWER_BYTES:
                raise ValueError(f"an answer of more than {MAX_ANSWER_BYTES} bytes")
    return bytes(answer)
