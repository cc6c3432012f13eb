"""Mirrors of ``bpf/include/splice.h``: one Layout a struct, one enum an enum. ``tests/contract`` compares them with the
object's BTF.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag

from nodeagent.loader.abi import Layout

OBJECT_NAME = "splice.bpf.o"
ROOM = "splice"
"""Where below an instance's pins ours are: ``<pins>/splice/maps`` and ``.../programs``."""

FLOW_MAP = "mesh_spl_flow"
SOCKET_MAP = "mesh_spl_sock"
HASH_MAP = "mesh_spl_hash"
ENTER_MAP = "mesh_spl_enter"
BROKEN_MAP = "mesh_spl_broken"
CONFIG_MAP = "mesh_spl_config"
TOTAL_MAP = "mesh_spl_total"
COUNT_MAP = "mesh_spl_count"
CONTROL_PROGRAM = "mesh_splice_control"
ADMIT_PROGRAM = "mesh_splice_admit"
"""An iterator over ENTER_MAP: sockets that control marked go into the hash."""
VERDICT_PROGRAM = "mesh_splice_verdict"
CGROUP_PROGRAMS = {"mesh_splice_sockops": 3, "mesh_splice_option": 22}
"""Program -> the kernel's attach type (BPF_CGROUP_SOCK_OPS, BPF_CGROUP_SETSOCKOPT)."""
TRACEPOINT = "sock_recv_length"
TRACEPOINT_SINCE = "6.3"
"""The only one of those below that some supported kernels lack."""
TRACING_PROGRAMS = ("mesh_splice_received", "mesh_splice_reading", "mesh_splice_awaiting")
FIONREAD_PROGRAM = "mesh_splice_asking"
"""Attached only where FIONREAD leaves redirected bytes out."""
RING_PROGRAM = "mesh_splice_ring"
RING_TRACEPOINT = "io_uring_submit_req"
"""Loaded and attached only where the kernel has the tracepoint."""
SK_MSG_VERDICT = 7
"""BPF_SK_MSG_VERDICT."""

_WAY = (
    ("consumed", "Q"), ("redirected", "Q"), ("tail", "Q"), ("charged", "q"), ("messages", "Q"), ("read_messages", "Q"),
    ("mark", "Q"), ("mark_messages", "Q"), ("retry", "Q"), ("active", "Q"), ("socket", "Q"), ("spliced", "I"),
    ("reader", "I"), ("switches", "I"), ("knocked", "I"), ("dry", "Q"), ("calm", "Q"), ("prompt", "I"), ("sender", "I"),
    ("receiver", "I"), ("patient", "I"),
)  # fmt: skip
SOCKET = Layout("mesh_splice_socket", ("flow", "Q"), ("read", "Q"), ("base", "I"), ("role", "I"), ("exchange", "40s"))
WAY = Layout("mesh_splice_way", *_WAY)
END = Layout("mesh_splice_end", ("cookie", "Q"), ("app", "20s"), ("agent", "20s"), ("netns", "i"), ("pad", "I"))
FLOW = Layout(
    "mesh_splice_flow", ("way", f"{2 * WAY.size}s"), ("end", f"{2 * END.size}s"), ("flags", "I"), ("owner", "I")
)
CONFIG = Layout(
    "mesh_splice_config", ("limit", "Q"), ("cap", "Q"), ("memory", "Q"), ("flags", "I"), ("ioctl_call", "i"),
    ("pad", "I"), ("patience", "I"),
)  # fmt: skip
REQUEST = Layout(
    "mesh_splice_request", ("operation", "I"), ("owner", "I"), ("flow", "Q"), ("app", "20s"), ("agent", "20s"),
    ("netns", "8s"),
)  # fmt: skip
REQUEST_OFFSET = 16
HERE = -1
"""Where a socket's network namespace is asked for: the agent's own."""

LAYOUTS = (SOCKET, WAY, END, FLOW, CONFIG, REQUEST)


class SocketRole(IntEnum):
    """``enum mesh_splice_role``."""

    CLIENT = 1
    SERVER = 2
    DIAL = 3
    TRIAL = 4


class Flag(IntFlag):
    """``enum mesh_splice_flag``. The OUT flags are reasons: such a flow is relayed for good."""

    ENABLED = 1 << 0
    ENROLLED = 1 << 1
    FORGOTTEN = 1 << 2
    BROKEN = 1 << 3
    ENTERING = 1 << 4
    LEG = 1 << 5
    LEFT = 1 << 6
    OUT_ULP = 1 << 8
    OUT_ZEROCOPY = 1 << 9
    OUT_LOWAT = 1 << 10
    OUT_OPTION = 1 << 11
    OUT_SPLICE = 1 << 12
    OUT_FIONREAD = 1 << 13
    OUT_WAITALL = 1 << 14
    OUT_BLOCKING = 1 << 15
    OUT_COUNT = 1 << 16
    OUT_REFUSED = 1 << 17
    OUT_BULK = 1 << 18
    IN_CLIENT = 1 << 19
    IN_SERVER = 1 << 20
    OUT_URGENT = 1 << 21


OUT = Flag(0x27FF00)
"""``MESH_SPLICE_OUT``: any reason to be out."""


class Reader(IntFlag):
    """``enum mesh_splice_reader``."""

    READ = 1
    READY = 2
    BLOCKS = 4
    SUSPECT = 8


class Switch(IntFlag):
    """``enum mesh_splice_switch``."""

    STOPPED = 1
    ALLOW_BLOCKING = 2
    NO_LEGS = 4
    SEES_RINGS = 8


class Operation(IntEnum):
    """``enum mesh_splice_operation``."""

    PREPARE = 1
    ENABLE = 2
    DISABLE = 3
    FORGET = 4
    RELEASE = 5
    PREPARE_ACCEPTED = 6
    PREPARE_DIALLED = 7
    LEAVE = 8
    PARTED = 9


class SpliceAnswer(IntEnum):
    """``enum mesh_splice_answer``."""

    DONE = 0
    UNKNOWN = 1
    NO_SOCKET = 2
    WAITING = 3
    IS_OUT = 4
    REFUSED = 5
    MALFORMED = 6
    FULL = 7
    MARKED = 8


class SpliceCount(IntEnum):
    """``enum mesh_splice_count``: the index of each counter. The lower-case name is the metric label."""

    SPLICED = 0
    LIMIT = 1
    CAP = 2
    MEMORY = 3
    GONE = 4
    BROKEN = 5
    ENROLLED = 6
    DENIED_ULP = 7
    BYTES = 8
    LEGS = 9
    BULK = 10
    ANSWERED = 11
    UNANSWERED = 12
