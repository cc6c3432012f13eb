"""The bytes between the nodes, as they are on the wire: recorded by a packet socket, searched, and read as TLS."""

from __future__ import annotations

import socket
import struct
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

from tests.netns.place import LINK
from tests.netns.spot import Spot

FRAME_BYTES = 256 * 1024
"""Frames on a veth pair are up to 64 KiB: segmentation is left to a card that never comes."""
SOL_PACKET = 263
PACKET_STATISTICS = 6
TUNNEL_PORT = 15008
TLS_1_3 = 0x0304
_SERVER_HELLO = 2
_HANDSHAKE = 22
_SUPPORTED_VERSIONS = 43
_PCAP_HEADER = struct.pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, FRAME_BYTES, 1)


@dataclass(frozen=True)
class Segment:
    """The TCP payload of one frame."""

    source: tuple[str, int]
    destination: tuple[str, int]
    payload: bytes


class Capture:
    """Records every frame on a node's link while the block runs. `drops` must be 0 to prove anything."""

    def __init__(self, spot: Spot) -> None:
        self._spot = spot
        self.frames: list[bytes] = []
        self._times: list[float] = []
        self.drops = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._record, daemon=True)

    def __enter__(self) -> Capture:
        self._socket = self._spot.packets(LINK)
        self._socket.settimeout(0.05)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._thread.join(10)
        packed = self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8)
        self.drops = struct.unpack("II", packed)[1]
        self._socket.close()

    def _record(self) -> None:
        """Until told to stop and nothing is queued any more."""
        while True:
            try:
                frame = self._socket.recv(FRAME_BYTES)
            except TimeoutError:
                if self._stop.is_set():
                    return
                continue
            self.frames.append(frame)
            self._times.append(time.time())

    @property
    def size(self) -> int:
        """Bytes recorded."""
        return sum(map(len, self.frames))

    def contains(self, marker: bytes) -> bool:
        """Whether any frame holds the marker; put it into the data many times, one may lie across two frames."""
        return any(marker in frame for frame in self.frames)

    def segments(self) -> list[Segment]:
        """Every TCP payload that is not empty, in order of arrival (each frame is seen once: leaving or arriving)."""
        return [segment for frame in self.frames if (segment := parse_frame(frame)) is not None]

    def tunnel_segments(self) -> list[Segment]:
        """What travelled to or from the tunnel port."""
        return [s for s in self.segments() if TUNNEL_PORT in (s.source[1], s.destination[1])]

    def tls_versions(self) -> list[int]:
        """The version that each TLS server on the tunnel port chose."""
        firsts: dict[tuple[tuple[str, int], tuple[str, int]], bytes] = {}
        for segment in self.segments():
            if segment.source[1] == TUNNEL_PORT:
                firsts.setdefault((segment.source, segment.destination), segment.payload)
        return [version for payload in firsts.values() if (version := chosen_version(payload)) is not None]

    def save(self, path: Path) -> None:
        """As a pcap file, for Wireshark and tcpdump."""
        with path.open("wb") as file:
            file.write(_PCAP_HEADER)
            for when, frame in zip(self._times, self.frames, strict=True):
                seconds, part = divmod(when, 1)
                file.write(struct.pack("<IIII", int(seconds), int(part * 1_000_000), len(frame), len(frame)) + frame)


def parse_frame(frame: bytes) -> Segment | None:
    """The TCP payload of an Ethernet frame; None for everything else and for empty segments."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and frame[23] == socket.IPPROTO_TCP:
        start = 14 + (frame[14] & 15) * 4
        end = 14 + struct.unpack_from("!H", frame, 16)[0]
        source, destination = socket.inet_ntop(2, frame[26:30]), socket.inet_ntop(2, frame[30:34])
    elif kind == b"\x86\xdd" and frame[20] == socket.IPPROTO_TCP:
        start = 54
        end = 54 + struct.unpack_from("!H", frame, 18)[0]
        source, destination = socket.inet_ntop(10, frame[22:38]), socket.inet_ntop(10, frame[38:54])
    else:
        return None
    source_port, destination_port = struct.unpack_from("!HH", frame, start)
    payload = frame[start + (frame[start + 12] >> 4) * 4 : end if end > start else len(frame)]
    return Segment((source, source_port), (destination, destination_port), payload) if payload else None


def chosen_version(payload: bytes) -> int | None:
    """The protocol version in a ServerHello (RFC 8446 4.1.3, 4.2.1); None if the bytes do not begin with one."""
    if len(payload) < 44 or payload[0] != _HANDSHAKE or payload[5] != _SERVER_HELLO:
        return None
    offset = 5 + 4 + 2 + 32
    version = struct.unpack_from("!H", payload, 9)[0]
    offset += 1 + payload[offset] + 2 + 1
    end = offset + 2 + struct.unpack_from("!H", payload, offset)[0]
    offset += 2
    while offset + 4 <= end:
        kind, length = struct.unpack_from("!HH", payload, offset)
        if kind == _SUPPORTED_VERSIONS:
            version = struct.unpack_from("!H", payload, offset + 4)[0]
        offset += 4 + length
    return int(version)
