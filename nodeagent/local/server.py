"""The agent's end of its socket."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from nodeagent.capture.cgroups import CgroupError
from nodeagent.capture.held import Held
from nodeagent.capture.plan import MIN_USER_NUMBER
from nodeagent.local import questions
from nodeagent.local.peer import Peer
from nodeagent.local.questions import MAX_QUESTION_BYTES, AgentQuestion, QuestionError
from nodeagent.local.shares import Shares
from nodeagent.local.trust import UntrustedPathError, open_directory, trusted_users

MAX_CONNECTIONS: Final = 1280
"""At once: all questions that may wait (``enrolment.waiting``), and some that are answered at once."""
MAX_CONNECTIONS_OF_USERS: Final = 640
"""Of those, connections of all users but root."""
MAX_CONNECTIONS_OF_ONE: Final = 128
"""Of those, connections of one user who is not root."""
ASK_SECONDS: Final = 5.0
"""How long a question may take to arrive."""
SEND_SECONDS: Final = 30.0
"""How long an answer may take to be read."""
PAUSE_SECONDS: Final = 1.0
"""Nothing is accepted for so long after it could not be: most likely descriptors are used up."""
BACKLOG: Final = 128
MAX_PATH: Final = 107
"""``sockaddr_un``: longer ones are bound by a descriptor of their directory."""
DIRECTORY_MODE: Final = 0o755
SOCKET_MODE: Final = 0o666
"""Everybody may connect: a unit that waits need not be root. What each may ask is decided by who it is."""

logger = logging.getLogger(__name__)

Document = Callable[[], Awaitable[Any]]


class Waits(Protocol):
    """Waits until somebody is captured (None: everything on the node); the outcome, and why if it is not so."""

    async def __call__(
        self, held: Held | None, *, asker: str, privileged: bool, seconds: float, optional: bool
    ) -> tuple[str, str]:
        """``asker``: whose share of the questions that wait it takes."""


class LocalSocketError(Exception):
    """The socket cannot be made; the text says why and what to do."""


class LocalServer:
    """Listens from the beginning; answers once ``run``. LocalSocketError."""

    def __init__(self, path: Path, documents: Mapping[str, Document], wait: Waits) -> None:
        self._path = path
        self._documents = documents
        self._wait = wait
        self._shares = Shares(
            "connections to the agent's socket",
            total=MAX_CONNECTIONS, each=MAX_CONNECTIONS_OF_ONE, others=MAX_CONNECTIONS_OF_USERS,
        )  # fmt: skip
        self._tasks: set[asyncio.Task[None]] = set()
        self._directory = _lock_directory(path.parent)
        try:
            self._listener, self._inode = _listen(self._directory, path)
        except OSError as error:
            os.close(self._directory)
            raise LocalSocketError(f"the agent's socket {path} cannot be made: {error.strerror}") from error

    async def run(self) -> None:
        """Until cancelled."""
        loop = asyncio.get_running_loop()
        loop.add_reader(self._listener.fileno(), self._accept)
        try:
            await asyncio.Event().wait()
        finally:
            loop.remove_reader(self._listener.fileno())
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def close(self) -> None:
        """Remove the socket, if it is still this one."""
        self._listener.close()
        with contextlib.suppress(OSError):
            if os.stat(self._path.name, dir_fd=self._directory, follow_symlinks=False).st_ino == self._inode:
                os.unlink(self._path.name, dir_fd=self._directory)
        os.close(self._directory)

    def _accept(self) -> None:
        try:
            connection, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError as error:
            logger.error("no question can be accepted for %g s: %s", PAUSE_SECONDS, error)
            loop = asyncio.get_running_loop()
            loop.remove_reader(self._listener.fileno())
            loop.call_later(PAUSE_SECONDS, self._go_on)
            return
        connection.setblocking(False)
        task = asyncio.get_running_loop().create_task(self._serve(connection), name="question")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _go_on(self) -> None:
        if self._listener.fileno() >= 0:
            asyncio.get_running_loop().add_reader(self._listener.fileno(), self._accept)

    async def _serve(self, connection: socket.socket) -> None:
        with contextlib.closing(connection), contextlib.closing(Peer(connection)) as peer:
            user = f"user {peer.uid}"
            # root is bounded by the total alone
            key = user if not peer.privileged else f"process {peer.pid}"
            refusal = self._shares.take(key, privileged=peer.privileged)
            if refusal:
                await _send(connection, questions.as_refusal(refusal))
                return
            try:
                await self._answer(connection, peer)
            except (OSError, TimeoutError, QuestionError):
                pass  # the asker is gone, or does not speak
            except Exception:
                logger.exception("defect: a question of %s could not be answered", user)
            finally:
                self._shares.give_back(key, privileged=peer.privileged)

    async def _answer(self, connection: socket.socket, peer: Peer) -> None:
        try:
            line = await _read(connection)
        except QuestionError as error:
            await _send(connection, questions.as_refusal(str(error)))
            return
        try:
            question = questions.unpack(line)
            held = _about(question, peer)
        except (QuestionError, PermissionError) as error:
            await _send(connection, questions.as_refusal(str(error)))
            return
        except (OSError, CgroupError) as error:
            await _send(connection, questions.as_refusal(f"the agent cannot look at who asks: {error}"))
            return
        answer = await _unless_gone(connection, self._find(question, peer, held))
        if answer is not None:
            await _send(connection, answer)

    async def _find(self, question: AgentQuestion, peer: Peer, held: Held | None) -> bytes:
        if question.document:
            document = self._documents.get(question.document)
            if document is None:
                return questions.as_refusal(f"this agent has no document {question.document!r}; is it another version?")
            return questions.as_answer(await document())
        asker = f"user {peer.uid}"
        if peer.privileged:
            asker = f"cgroup {_nearest(held)}" if held is not None else "root"
        outcome, why = await self._wait(
            held, asker=asker, privileged=peer.privileged, seconds=question.seconds, optional=question.optional
        )
        return questions.as_verdict(outcome, why)


def _nearest(held: Held) -> int:
    """The process's own cgroup, among numbers that stand for users of cgroups."""
    return next((number for number in held.cgroups if number < MIN_USER_NUMBER), 0)


def _about(question: AgentQuestion, peer: Peer) -> Held | None:
    """Whom the question is about. PermissionError if that is not for this asker to ask."""
    if question.document or question.process is None:
        return None
    if question.myself:
        return peer.held(question.uid) if peer.visible else question.process.held
    if not peer.privileged:
        raise PermissionError(f"only root may ask about other processes than itself; you are user {peer.uid}")
    return question.process.held


async def _read(connection: socket.socket) -> bytes:
    loop, line = asyncio.get_running_loop(), bytearray()
    async with asyncio.timeout(ASK_SECONDS):
        while b"\n" not in line:
            piece = await loop.sock_recv(connection, MAX_QUESTION_BYTES + 1 - len(line))
            if not piece:
                raise ConnectionResetError("the asker has gone")
            line += piece
            if len(line) > MAX_QUESTION_BYTES:
                raise QuestionError(f"a question has at most {MAX_QUESTION_BYTES} bytes")
    return bytes(line.partition(b"\n")[0])


async def _send(connection: socket.socket, answer: bytes) -> None:
    with contextlib.suppress(OSError, TimeoutError):
        async with asyncio.timeout(SEND_SECONDS):
            await asyncio.get_running_loop().sock_sendall(connection, answer)


async def _unless_gone(connection: socket.socket, answer: Awaitable[bytes]) -> bytes | None:
    """The answer; None if the asker goes before it is there."""
    answering = asyncio.ensure_future(answer)
    leaving = asyncio.ensure_future(asyncio.get_running_loop().sock_recv(connection, 1))
    try:
        await asyncio.wait((answering, leaving), return_when=asyncio.FIRST_COMPLETED)
        return await answering if answering.done() else None
    finally:
        for task in (answering, leaving):
            task.cancel()
        await asyncio.gather(answering, leaving, return_exceptions=True)


def _lock_directory(directory: Path) -> int:
    """A descriptor of the directory, made if it is missing, with a lock that this agent holds while it lives."""
    try:
        for path in (directory.parent, directory):
            if not path.exists():
                path.mkdir(parents=True)
                path.chmod(DIRECTORY_MODE)
        os.close(open_directory(directory, trusted_users()))
        descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (OSError, UntrustedPathError) as error:
        raise LocalSocketError(f"the directory of the agent's socket cannot be used: {error}") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(descriptor)
        raise LocalSocketError(
            f"another agent has its socket in {directory}; give this one another 'instance' or 'run_dir'"
        ) from None
    return descriptor


def _listen(directory: int, path: Path) -> tuple[socket.socket, int]:
    """The listening socket and its inode. What a killed agent left is replaced: nobody else holds the lock."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path.name, dir_fd=directory)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        name = str(path) if len(os.fsencode(path)) <= MAX_PATH else f"/proc/self/fd/{directory}/{path.name}"
        listener.bind(name)
        os.chmod(path.name, SOCKET_MODE, dir_fd=directory)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except BaseException:
        listener.close()
        raise
    return listener, os.stat(path.name, dir_fd=directory, follow_symlinks=False).st_ino
