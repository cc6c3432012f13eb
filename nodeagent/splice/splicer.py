"""A worker's handle on the splice. Every call is one system call of a microsecond or two; use it from one thread.

The life of a flow: ``prepare`` (accepted, to be served on this node), ``dialling`` (before the agent's socket
connects to the server), ``enable`` (authorized; again after each relayed chunk until it says ENROLLED), ``forget``
(its end). All the while the agent keeps both its sockets, passes FIN and RST on, and relays whatever bytes arrive:
bytes that are spliced never reach it.

The life of a leg, one connection between an application and the agent: ``prepare_leg`` and ``enable`` after a chunk
was read, until it says ENROLLED; ``leave`` when ``broken`` tells that it is bulk; ``forget``. Its bytes all reach the
agent, past TCP.
"""

from __future__ import annotations

import errno
import os
import struct
import sys
from enum import Enum
from pathlib import Path
from socket import inet_aton

from control.wire.address import SocketAddress, packed_ip
from nodeagent.loader.abi import ENDPOINT, port_bytes
from nodeagent.loader.errors import BpfError
from nodeagent.loader.pins import map_pin
from nodeagent.splice import abi
from nodeagent.splice.abi import Flag, Operation, SpliceAnswer
from nodeagent.splice.figures import SplicedBytes
from nodeagent.splice.kernel import Runner, iterate, splice_calls

__all__ = ["SpliceState", "SplicedBytes", "Splicer", "packed_endpoint", "program_pin"]

MAX_BROKEN = 64
"""Flows to be reset that one call reports; the next call reports the rest."""
_ORDER = sys.byteorder
_MAPPED = bytes(10) + b"\xff\xff"
_NOWHERE = bytes(ENDPOINT.size)


class SpliceState(Enum):
    """What ``enable`` has to say."""

    WAITING = "nobody was seen reading yet"
    """Ask again when a chunk was relayed."""
    ENROLLED = "in the kernel's hands"
    """Bytes go the short way from now on, whenever that is safe. No need to ask again."""
    OUT = "relayed for good"
    """``reason`` says why. No need to ask again."""


def program_pin(pin_dir: Path, name: str) -> Path:
    """Where a program of the splice is pinned."""
    return pin_dir / abi.ROOM / "programs" / name


def packed_endpoint(address: SocketAddress) -> bytes:
    """As the kernel's maps name it."""
    ip = address.ip
    return ENDPOINT.codec.pack(packed_ip(ip) if ":" in ip else _MAPPED + inet_aton(ip), port_bytes(address.port), 0)


class Splicer:
    """Opened from the pins of a running ``SpliceController``; BpfError if there is none."""

    def __init__(self, pin_dir: Path, owner: int | None = None) -> None:
        self._sys = splice_calls()
        self._owner = os.getpid() if owner is None else owner
        self._fds: list[int] = []
        maps = pin_dir / abi.ROOM
        self._flows = self._open(map_pin(maps, abi.FLOW_MAP))
        self._sockets = self._open(map_pin(maps, abi.SOCKET_MAP))
        self._broken = self._open(map_pin(maps, abi.BROKEN_MAP))
        self._hash = self._open(map_pin(maps, abi.HASH_MAP))
        self._admit = self._open(program_pin(pin_dir, abi.ADMIT_PROGRAM))
        self._control = Runner(
            self._open(program_pin(pin_dir, abi.CONTROL_PROGRAM)), abi.REQUEST_OFFSET + abi.REQUEST.size
        )
        ffi = self._sys.ffi
        self._key = ffi.new("uint64_t *")
        self._descriptor = ffi.new("int *")
        self._socket = ffi.new("char[]", abi.SOCKET.size)
        self._flow = ffi.new("char[]", abi.FLOW.size)
        self._flow_bytes = ffi.buffer(self._flow)

    def _open(self, path: Path) -> int:
        fd = self._sys.get(path)
        self._fds.append(fd)
        return fd

    def close(self) -> None:
        """Flows stay as they are."""
        for fd in self._fds:
            os.close(fd)
        self._fds.clear()

    def prepare(
        self,
        cookie: int,
        client: SocketAddress,
        listener: SocketAddress,
        places: tuple[int, int] = (abi.HERE, abi.HERE),
    ) -> int | None:
        """The number of the flow whose client is the captured socket ``cookie``, connected from ``client`` to the
        agent's ``listener`` address. None: it cannot be spliced; relay it. ``places``: the ids that the network
        namespaces of client and server have in this thread's (``namespaces.ids``); HERE is that one itself.

        Call it before the first byte is written to the client.
        """
        ends = packed_endpoint(client), packed_endpoint(listener)
        answer = self._ask(Operation.PREPARE, cookie, *ends, struct.pack("ii", *places))
        return cookie if answer is SpliceAnswer.DONE else None

    def dialling(self, flow: int, descriptor: int) -> None:
        """The agent's socket with this descriptor is going to connect to the server. Call it before ``connect()``."""
        self._descriptor[0] = descriptor
        self._sys.ffi.buffer(self._socket)[:] = abi.SOCKET.codec.pack(flow, 0, 0, abi.SocketRole.DIAL, b"")
        result = self._sys.lib.bpf_map_update_elem(self._sockets, self._descriptor, self._socket, 0)
        self._sys.check(result, "cannot mark the agent's socket")

    def prepare_leg(
        self, number: int, ends: tuple[SocketAddress, SocketAddress], place: int = abi.HERE, *, dialled: bool
    ) -> SpliceAnswer:
        """A connection between an application and the agent, at any time but in the midst of a read: DONE, WAITING (ask
        again after the next chunk), or why not. ``number`` is the cookie of its client's socket, ``ends`` are the
        addresses of client and server; ``dialled``: the agent is the client. ``place`` as in ``prepare``.
        """
        operation = Operation.PREPARE_DIALLED if dialled else Operation.PREPARE_ACCEPTED
        client, server = ends
        return self._ask(
            operation, number, packed_endpoint(client), packed_endpoint(server), struct.pack("ii", place, place)
        )

    def leave(self, flow: int) -> bool:
        """A flow that is out: back to TCP altogether. False: bytes wait yet to be read; ask again."""
        answer = self._ask(Operation.LEAVE, flow)
        if answer is SpliceAnswer.DONE:
            for cookie in self._cookies(flow):
                self._key[0] = cookie
                result = self._sys.lib.bpf_map_delete_elem(self._hash, self._key)
                if result != -errno.ENOENT:  # its socket was closed
                    self._sys.check(result, "cannot take a socket out of the splice")
            self._ask(Operation.PARTED, flow)
        return answer is not SpliceAnswer.WAITING

    def enable(self, flow: int) -> SpliceState:
        """Both ends are authorized: splice as soon as it is safe. Repeat it after each relayed chunk while WAITING."""
        answer = self._ask(Operation.ENABLE, flow)
        if answer is SpliceAnswer.MARKED:
            iterate(self._admit)
            answer = self._ask(Operation.ENABLE, flow)
        if answer is SpliceAnswer.DONE:
            return SpliceState.ENROLLED
        return SpliceState.WAITING if answer in (SpliceAnswer.WAITING, SpliceAnswer.MARKED) else SpliceState.OUT

    def disable(self, flow: int) -> None:
        """Back to relay, without losing a byte: what is queued is read first. ``enable`` makes it spliced again."""
        self._ask(Operation.DISABLE, flow)

    def forget(self, flow: int) -> None:
        """The flow has ended; its number means nothing any more."""
        self._ask(Operation.FORGET, flow)

    def counters(self, flow: int) -> SplicedBytes | None:
        """What went the short way so far; None once the flow is forgotten."""
        found = self._look(flow)
        if found is None:
            return None
        (to_server, to_client), _ = found
        active = max(to_server["active"], to_client["active"])
        read = to_server["consumed"] + to_client["consumed"]
        return SplicedBytes(to_server["redirected"], to_client["redirected"], active / 1e9, read)

    def unread(self, flow: int) -> tuple[int, int]:
        """Octets that went the short way, and were not read yet: by the server, by the client."""
        found = self._look(flow)
        if found is None:
            return 0, 0
        to_server, to_client = (max(0, way["tail"] - way["consumed"]) for way in found[0])
        return to_server, to_client

    def reason(self, flow: int) -> Flag:
        """Why the flow is out; nothing if it is not."""
        found = self._look(flow)
        return Flag(0) if found is None else found[1] & abi.OUT

    def standing(self, flow: int) -> tuple[bool, Flag]:
        """Whether bytes of either direction go the short way at present, and the flow's flags."""
        found = self._look(flow)
        if found is None:
            return False, Flag(0)
        ways, flags = found
        return any(way["spliced"] for way in ways), flags

    def look(self, flow: int) -> tuple[dict[str, int], dict[str, int]] | None:
        """Both directions as the kernel keeps them, for debugging: client to server, server to client."""
        found = self._look(flow)
        return None if found is None else found[0]

    def _look(self, flow: int) -> tuple[tuple[dict[str, int], dict[str, int]], Flag] | None:
        self._key[0] = flow
        if self._sys.lib.bpf_map_lookup_elem(self._flows, self._key, self._flow) < 0:
            return None
        ways, _, flags, _ = abi.FLOW.codec.unpack(self._flow_bytes)
        names = [name for name, _ in abi.WAY.fields]
        first, second = (dict(zip(names, way, strict=True)) for way in abi.WAY.codec.iter_unpack(ways))
        return (first, second), Flag(flags)

    def _cookies(self, flow: int) -> tuple[int, ...]:
        """Under which its sockets are in the hash."""
        self._key[0] = flow
        if self._sys.lib.bpf_map_lookup_elem(self._flows, self._key, self._flow) < 0:
            return ()
        _, ends, _, _ = abi.FLOW.codec.unpack(self._flow_bytes)
        return tuple(end[0] for end in abi.END.codec.iter_unpack(ends))

    def broken(self, mine: set[int] | None = None) -> list[tuple[int, Flag]]:
        """Flows to be reset at once, each told once, and why: bytes wait where their reader does not look for them. Ask
        every 50 ms or so while flows are enrolled. OUT_BULK alone means a leg that is to ``leave``, not to be reset.
        ``mine`` leaves those of other workers to them.
        """
        found: list[tuple[int, Flag]] = []
        value = self._sys.ffi.new("uint32_t *")
        for flow in self._broken_keys():
            if mine is not None and flow not in mine:
                continue
            self._key[0] = flow
            if self._sys.lib.bpf_map_lookup_and_delete_elem(self._broken, self._key, value) == 0:
                found.append((flow, Flag(int(value[0]))))
        return found

    def _broken_keys(self) -> list[int]:
        ffi = self._sys.ffi
        keys: list[int] = []
        after = ffi.new("uint64_t *")
        result = self._sys.lib.bpf_map_get_next_key(self._broken, ffi.NULL, after)
        while result == 0 and len(keys) < MAX_BROKEN:
            keys.append(int(after[0]))
            self._key[0] = after[0]
            result = self._sys.lib.bpf_map_get_next_key(self._broken, self._key, after)
        return keys

    def _ask(
        self, operation: Operation, flow: int, app: bytes = _NOWHERE, agent: bytes = _NOWHERE, places: bytes = b""
    ) -> SpliceAnswer:
        abi.REQUEST.codec.pack_into(
            self._control.packet, abi.REQUEST_OFFSET, operation, self._owner, flow, app, agent, places
        )
        answer = SpliceAnswer(self._control.run())
        if answer is SpliceAnswer.MALFORMED:
            raise BpfError("the splice's programs and this agent are of different versions", errno.EPROTO)
        return answer
