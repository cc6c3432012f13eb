"""A client of the Kubernetes Container Runtime Interface (gRPC ``runtime.v1``), as kubelet is one: the few calls that
start and end a pod. Messages are written by the numbers of their fields in ``runtime/v1/api.proto`` (k8s.io/cri-api).
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import h2.config
import h2.connection
import h2.events

from tests.support.pace import patient

SERVICE: Final = "/runtime.v1.RuntimeService/"
CALL_SECONDS = patient(60.0)
CHUNK = 65536
NODE = 2
"""A namespace mode: the host's own."""
_PREFIX = struct.Struct(">BI")

Message = Mapping[int, Any]
"""Number of the field -> value; a list is a repeated one, ``Map`` a map of strings."""


class Map(dict[str, str]):
    """A field that is a map of strings."""


class CriError(Exception):
    """The runtime's own words."""


def encode(message: Message) -> bytes:
    """In protobuf's wire format."""
    return b"".join(_field(number, value) for number, value in message.items())


def _field(number: int, value: Any) -> bytes:
    if isinstance(value, Map):
        return b"".join(_field(number, {1: key, 2: text}) for key, text in value.items())
    if isinstance(value, list):
        return b"".join(_field(number, item) for item in value)
    if isinstance(value, int):
        return _varint(number << 3) + _varint(value)
    data = value.encode() if isinstance(value, str) else encode(value)
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def decode(data: bytes) -> dict[int, Any]:
    """Fields of one level: numbers, and bytes; of a repeated one the last."""
    found: dict[int, Any] = {}
    stream = iter(data)
    for first in stream:
        key = _read_varint(stream, first)
        number = _read_varint(stream, next(stream))
        found[key >> 3] = bytes(next(stream) for _ in range(number)) if key & 7 == 2 else number
    return found


def _read_varint(stream: Iterator[int], byte: int) -> int:
    value = shift = 0
    while byte & 0x80:
        value |= (byte & 0x7F) << shift
        shift += 7
        byte = next(stream)
    return value | byte << shift


def call(address: Path, method: str, message: Message, service: str = SERVICE) -> dict[int, Any]:
    """One call, of the runtime service or another one. CriError if it is refused."""
    request = encode(message)
    connection = h2.connection.H2Connection(h2.config.H2Configuration(header_encoding="utf-8"))
    connection.initiate_connection()
    with socket.socket(socket.AF_UNIX) as stream:
        stream.settimeout(CALL_SECONDS)
        stream.connect(str(address))
        headers = {
            ":method": "POST", ":scheme": "http", ":path": service + method, ":authority": "localhost",
            "content-type": "application/grpc", "te": "trailers", "containerd-namespace": "k8s.io",
        }  # fmt: skip
        connection.send_headers(1, list(headers.items()))
        connection.send_data(1, _PREFIX.pack(0, len(request)) + request, end_stream=True)
        stream.sendall(connection.data_to_send())
        return decode(_answer(connection, stream)[_PREFIX.size :])


def _answer(connection: h2.connection.H2Connection, stream: socket.socket) -> bytes:
    body, told = b"", dict[str, str]()
    while True:
        received = stream.recv(CHUNK)
        if not received:
            raise CriError("the runtime closed the connection")
        for event in connection.receive_data(received):
            if isinstance(event, h2.events.DataReceived):
                body += event.data
                connection.acknowledge_received_data(event.flow_controlled_length, 1)
            elif isinstance(event, h2.events.ResponseReceived | h2.events.TrailersReceived):
                told |= {str(name): str(value) for name, value in event.headers}
            elif isinstance(event, h2.events.StreamReset | h2.events.ConnectionTerminated):
                raise CriError(f"the runtime broke the call off: {event}")
            elif isinstance(event, h2.events.StreamEnded):
                if told.get("grpc-status") != "0":
                    raise CriError(told.get("grpc-message", f"status {told.get('grpc-status')}"))
                return body
        stream.sendall(connection.data_to_send())
