"""The Huffman code of strings (RFC 7541, section 5.2 and appendix B).

The code is canonical: codes of one length count up in the order of their symbols, and go on where the shorter ones
ended. So the lengths are the whole table. Decoding takes four bits a step; no code is shorter than five, so a step
completes one symbol at most.
"""

from __future__ import annotations

from typing import Final

from librt.strings import BytesWriter
from mypy_extensions import i64

EOS: Final = 256
"""The symbol that ends nothing: its first bits fill the last octet, and it must not come whole."""
MAX_PADDING: Final = 7
_LENGTHS: Final = (
    13, 23, 28, 28, 28, 28, 28, 28, 28, 24, 30, 28, 28, 30, 28, 28, 28, 28, 28, 28, 28, 28, 30, 28, 28, 28, 28,
    28, 28, 28, 28, 28, 6, 10, 10, 12, 13, 6, 8, 11, 10, 10, 8, 11, 8, 6, 6, 6, 5, 5, 5, 6, 6, 6, 6, 6, 6, 6, 7,
    8, 15, 6, 12, 10, 13, 6, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 7, 8, 7, 8, 13, 19,
    13, 14, 6, 15, 5, 6, 5, 6, 5, 6, 6, 6, 5, 7, 7, 6, 6, 6, 5, 6, 7, 6, 5, 5, 6, 7, 7, 7, 7, 7, 15, 11, 14, 13,
    28, 20, 22, 20, 20, 22, 22, 22, 23, 22, 23, 23, 23, 23, 23, 24, 23, 24, 24, 22, 23, 24, 23, 23, 23, 23, 21,
    22, 23, 22, 23, 23, 24, 22, 21, 20, 22, 22, 23, 23, 21, 23, 22, 22, 24, 21, 22, 23, 23, 21, 21, 22, 21, 23,
    22, 23, 23, 20, 22, 22, 22, 23, 22, 22, 23, 26, 26, 20, 19, 22, 23, 22, 25, 26, 26, 26, 27, 27, 26, 24, 25,
    19, 21, 26, 27, 27, 26, 27, 24, 21, 21, 26, 26, 28, 27, 27, 27, 20, 24, 20, 21, 22, 21, 21, 23, 22, 22, 25,
    25, 24, 24, 26, 23, 26, 27, 26, 26, 27, 27, 27, 27, 27, 28, 27, 27, 27, 27, 27, 26, 30,
)  # fmt: skip
_EMIT: Final = 1
_FAIL: Final = 2
_MAY_END: Final = 4


def _codes() -> list[int]:
    """The code of each symbol."""
    codes = [0] * len(_LENGTHS)
    code = length = 0
    for symbol in sorted(range(len(_LENGTHS)), key=lambda symbol: (_LENGTHS[symbol], symbol)):
        code <<= _LENGTHS[symbol] - length
        length = _LENGTHS[symbol]
        codes[symbol] = code
        code += 1
    return codes


def _tree(codes: list[int]) -> list[list[int]]:
    """Nodes with two children each: the number of a node, or a symbol as ``~symbol``. Node 0 is the root."""
    nodes = [[0, 0]]
    for symbol, code in enumerate(codes):
        at = 0
        for shift in range(_LENGTHS[symbol] - 1, 0, -1):
            bit = code >> shift & 1
            if not nodes[at][bit]:
                nodes.append([0, 0])
                nodes[at][bit] = len(nodes) - 1
            at = nodes[at][bit]
        nodes[at][code & 1] = ~symbol
    return nodes


def _steps(nodes: list[list[int]]) -> tuple[bytes, bytes, bytes]:
    """For each node and the next four bits: the node then, flags, and the symbol that was completed."""
    ends, at = {0}, 0
    for _ in range(MAX_PADDING):
        at = nodes[at][1]
        ends.add(at)
    following, flags, symbols = bytearray(), bytearray(), bytearray()
    for node in range(len(nodes)):
        for bits in range(16):
            at, flag, symbol = node, 0, 0
            for shift in (3, 2, 1, 0):
                at = nodes[at][bits >> shift & 1]
                if at == ~EOS:
                    at, flag = 0, _FAIL
                    break
                if at < 0:
                    at, flag, symbol = 0, _EMIT, ~at
            following.append(at)
            flags.append(flag | (_MAY_END if at in ends else 0))
            symbols.append(symbol)
    return bytes(following), bytes(flags), bytes(symbols)


_CODES: Final[list[int]] = _codes()
_TABLES: Final = _steps(_tree(_CODES))
_NEXT: Final[bytes] = _TABLES[0]
_FLAGS: Final[bytes] = _TABLES[1]
_SYMBOLS: Final[bytes] = _TABLES[2]


def decode(data: bytes, at: i64, end: i64) -> bytes | None:
    """The string whose code is ``data[at:end]``; None if it is none: EOS in it, or padding over seven bits or other
    than the first bits of EOS.
    """
    out = BytesWriter()
    state: i64 = 0
    flags: i64 = _MAY_END
    while at < end:
        octet: i64 = data[at]
        step: i64 = state << 4 | octet >> 4
        flags = _FLAGS[step]
        if flags & _EMIT:
            out.append(_SYMBOLS[step])
        elif flags & _FAIL:
            return None
        step = i64(_NEXT[step]) << 4 | octet & 15
        flags = _FLAGS[step]
        if flags & _EMIT:
            out.append(_SYMBOLS[step])
        elif flags & _FAIL:
            return None
        state = _NEXT[step]
        at += 1
    return out.getvalue() if flags & _MAY_END else None


def encode(text: bytes) -> bytes:
    """The code of a string, filled up with the first bits of EOS."""
    out = BytesWriter()
    held: i64 = 0
    bits: i64 = 0
    for octet in text:
        held = held << _LENGTHS[octet] | _CODES[octet]
        bits += _LENGTHS[octet]
        while bits >= 8:
            bits -= 8
            out.append(held >> bits & 0xFF)
        held &= (1 << bits) - 1
    if bits:
        out.append((held << (8 - bits) | (0xFF >> bits)) & 0xFF)
    return out.getvalue()


def encoded_size(text: bytes) -> int:
    """How many octets ``encode`` makes of it."""
    bits: i64 = 0
    for octet in text:
        bits += _LENGTHS[octet]
    return (bits + 7) >> 3
