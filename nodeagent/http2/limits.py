"""The bounds of a connection, in one place. Window sizes are in ``windows``. What differs between uses is in
``ConnectionLimits``; the constants that it is made of are a tunnel's.

The figures follow istio/ztunnel where a peer can see them (frame size, streams, pings).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_FRAME_RECEIVED: Final = 1024 * 1024
MAX_FRAME_SENT: Final = 256 * 1024
MAX_OUTPUT: Final = 256 * 1024
"""Octets of DATA that may wait for one write; beyond it streams queue and their sources are stopped."""
MAX_HEADER_LIST: Final = 16 * 1024
MAX_HEADER_BLOCK: Final = 16 * 1024
"""A longer block ends its connection: only the whole of it would keep the header tables in step."""
MAX_FIELDS: Final = 100
"""Fields in a header list. A list over this or over ``MAX_HEADER_LIST`` fails its stream."""
DECODER_TABLE: Final = 4096
ENCODER_TABLE: Final = 4096
"""Octets of the header tables: the protocol's default, whatever larger a peer allows."""
SERVER_STREAMS: Final = 200
CLIENT_STREAMS: Final = 100
LAST_STREAM_ID: Final = 2**31 - 1
MAX_REPLIES: Final = 256
"""Acknowledgements that may wait for a peer that does not read."""
MAX_CONTROL_WAITING: Final = 4096
"""Control frames of every kind that may wait for one write; a peer that provokes more does not read."""
MAX_SETTINGS: Final = 64
"""Settings in one frame: each may cost a walk over all streams."""
MAX_IDLE_FRAMES: Final = 1024
"""Frames in a row that carry nothing (empty DATA, PRIORITY, unknown types) before the peer is told to calm down."""
MAX_EARLY_RESETS: Final = 512
"""Requests in excess of answered ones that a peer may open and reset at once, or make us reset at once by its mistakes
(rapid reset, CVE-2023-44487; "made you reset", CVE-2025-8671)."""
MAX_EMPTY_RESETS: Final = 512
"""Streams on which the peer sent nothing and that it may reset, answered or not, before they are two ticks old."""
EMPTY_RESETS_A_SECOND: Final = 100
"""So many of them are forgiven in a second."""
OLD_TICKS: Final = 2
"""A stream of this age counts as one that lived: how many of those there can be is bounded by ``SERVER_STREAMS``."""
NEW_STREAMS_A_TURN: Final = 16
"""Requests that are handed to the owner before the output is taken; what follows them waits for the next turn."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionLimits:
    """What one use of HTTP/2 bounds otherwise than another. Octets, and numbers of streams and fields."""

    header_block: int = MAX_HEADER_BLOCK
    header_list: int = MAX_HEADER_LIST
    fields: int = MAX_FIELDS
    decoder_table: int = DECODER_TABLE
    encoder_table: int = ENCODER_TABLE
    server_streams: int = SERVER_STREAMS
    """That a peer may have open here at one time."""
    client_streams: int = CLIENT_STREAMS
    """That we open at one time, if the peer allows so many."""
    checked: bool = False
    """Whether heads and trailers must be well-formed messages (``message``), and contents as long as announced. A
    tunnel's requests are read, and refused in words, by ``nodeagent.tunnel.request``."""


TUNNEL_LIMITS: Final = ConnectionLimits()
