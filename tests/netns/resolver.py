"""A DNS server for the stories: `resolver.py ADDRESS` answers on port 53, UDP and TCP, until it is killed.

Every question is answered with one TXT record that says who answers and the SHA-256 of the message as it came, so that
a story sees that not a byte was changed; `large.*` with 3,000 octets; `closed.*` over TCP by closing; `cut.*` over UDP
with nothing but the flag that says so (TC).
"""

from __future__ import annotations

import hashlib
import selectors
import socket
import struct
import sys


def answer(message: bytes, who: str) -> bytes:
    """By hand: the server must take what no codec would."""
    name_end = 12
    while name_end < len(message) and message[name_end]:
        name_end += 1 + message[name_end]
    question = message[12 : name_end + 5]
    text = f"{who} {hashlib.sha256(message).hexdigest()}".encode()
    texts = [text] + ([b"x" * 250] * 12 if b"\x05large" in message else [])
    data = b"".join(bytes([len(each)]) + each for each in texts)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 16, 1, 0, len(data)) + data
    flags = int.from_bytes(message[2:4], "big") | 0x8080
    return message[:2] + struct.pack("!HHHHH", flags, 1, 1, 0, 0) + question + record


def cut(message: bytes) -> bytes:
    """Only the question, and that there was no room for more."""
    flags = int.from_bytes(message[2:4], "big") | 0x8280
    name_end = message.index(b"\0", 12)
    return message[:2] + struct.pack("!HHHHH", flags, 1, 0, 0, 0) + message[12 : name_end + 5]


def main() -> None:
    who = sys.argv[1]
    family = socket.AF_INET6 if ":" in who else socket.AF_INET
    udp = socket.socket(family, socket.SOCK_DGRAM)
    tcp = socket.socket(family, socket.SOCK_STREAM)
    tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    for each in (udp, tcp):
        each.bind((who, 53))
    tcp.listen(16)
    waiting = selectors.DefaultSelector()
    waiting.register(udp, selectors.EVENT_READ)
    waiting.register(tcp, selectors.EVENT_READ)
    print("ready", flush=True)
    while True:
        for key, _ in waiting.select():
            if key.fileobj is udp:
                message, source = udp.recvfrom(65535)
                print(f"udp {source[0]} {message.hex()}", flush=True)
                udp.sendto(cut(message) if b"\x03cut" in message else answer(message, who), source)
            else:
                connection, source = tcp.accept()
                print(f"tcp {source[0]}", flush=True)
                serve(connection, who)


def serve(connection: socket.socket, who: str) -> None:
    """Every message of one connection, one after another."""
    connection.settimeout(8)
    with connection, connection.makefile("rb") as stream:
        while head := stream.read(2):
            message = stream.read(int.from_bytes(head, "big"))
            if b"\x06closed" in message:
                return
            response = answer(message, who)
            connection.sendall(len(response).to_bytes(2, "big") + response)


if __name__ == "__main__":
    main()
