"""Mirrors of ``bpf/include/abi.h``: one Layout a struct, one enum an enum. ``tests/contract`` compares them with the
object's BTF.

Ports stay two bytes in network order (``port_bytes``), addresses 16 bytes (IPv4 as ``::ffff:a.b.c.d``).
"""

from __future__ import annotations

import struct
from enum import IntEnum, IntFlag

ABI = 1
MAX_DEPTH = 32
"""Levels of the cgroup tree on which something can be enrolled (``MESH_MAX_DEPTH``)."""

DESTINATION_MAP = "mesh_dest_v1"
CGROUP_MAP = "mesh_cgroup_v1"
USER_MAP = "mesh_user_v1"
LISTENER_MAP = "mesh_listen_v2"
CONFIG_MAP = "mesh_config_v1"
FLOW_MAP = "mesh_flow_v2"
COUNT_MAP = "mesh_count_v1"
ORIGIN_MAP = "mesh_origin_v2"
DIAL_MAP = "mesh_dial_v2"
CLIENT_MAP = "mesh_client_v2"
PORT_MAP = "mesh_port_v1"
OWN_MAP = "mesh_own_v2"
STEER_MAP = "mesh_steer_v2"
LOCAL_MAP = "mesh_local_v1"
ALIVE_MAP = "mesh_alive_v1"
DNS_MAP = "mesh_dns_v2"
EGRESS_MAP = "mesh_egress_v1"
REFUSED_MAP = "mesh_refused_v1"
ASKER_MAP = "mesh_asker_v2"
RESOLVERS_MAP = "mesh_resolv_v2"
DOOR_MAP = "mesh_door_v1"
OURS_MAP = "mesh_ours_v1"
CREW_MAP = "mesh_crew_v1"
DNS_SLOTS = 4
"""Resolvers that one UDP socket may ask through the agent; its listeners in each namespace (``MESH_DNS_SLOTS``)."""


class Layout:
    """The fields of a C struct: (name, struct code). Padding is spelled out in C, so nothing is implied here either."""

    def __init__(self, name: str, *fields: tuple[str, str]) -> None:
        self.name = name
        self.fields = fields
        self.codec = struct.Struct("=" + "".join(code for _, code in fields))
        self.size = self.codec.size


ENDPOINT = Layout("mesh_endpoint", ("addr", "16s"), ("port", "2s"), ("pad", "H"))
DESTINATION = Layout("mesh_destination", ("tag", "I"), ("flags", "I"))
CGROUP = Layout("mesh_cgroup", ("tag", "I"), ("flags", "I"))
USER_KEY = Layout("mesh_user_key", ("cgroup_id", "Q"), ("uid", "I"), ("pad", "I"))
LISTENER = Layout("mesh_listener", ("port", "2s"), ("flags", "H"), ("pad", "I"))
CONFIG = Layout("mesh_config", ("flags", "I"), ("pad", "I"))
ORIGIN = Layout(
    "mesh_origin", ("destination", "20s"), ("pid", "I"), ("cgroup_id", "Q"), ("uid", "I"), ("scope", "I"),
)  # fmt: skip
FLOW_KEY = Layout("mesh_flow_key", ("netns", "Q"), ("addr", "16s"), ("port", "2s"), ("pad", "6s"))
FLOW = Layout(
    "mesh_flow", ("cookie", "Q"), ("cgroup_id", "Q"), ("ktime", "Q"), ("destination", "20s"),
    ("pid", "I"), ("uid", "I"), ("scope", "I"),
)  # fmt: skip
DNS = Layout("mesh_dns", ("port", "2s"), ("pad", "H"), ("pad2", "I"), ("source", "32s"))
RESOLVERS = Layout(
    "mesh_resolvers", ("slot", "80s"), ("used", "I"), ("pad", "I"), ("netns", "Q"), ("cookie", "Q"), ("from", "20s"),
    ("pad2", "I"),
)  # fmt: skip
ASKER = Layout("mesh_asker", ("netns", "Q"), ("from", "20s"), ("slot", "I"))
ASKED = Layout(
    "mesh_asked", ("cgroup_id", "Q"), ("cookie", "Q"), ("resolver", "20s"), ("pid", "I"), ("scope", "I"), ("pad", "I"),
)  # fmt: skip
DOOR_KEY = Layout("mesh_door_key", ("netns", "Q"), ("port", "2s"), ("protocol", "B"), ("pad", "5s"))
DOOR = Layout("mesh_door", ("flags", "I"))

DIAL_KEY = Layout("mesh_dial_key", ("netns", "Q"), ("agent", "20s"), ("app", "20s"))
CLIENT = Layout("mesh_client", ("client", "20s"), ("role", "I"), ("cgroup_id", "Q"))
PORT_KEY = Layout("mesh_port_key", ("netns", "Q"), ("at", "20s"), ("pad", "I"))
PORT = Layout("mesh_port", ("mode", "I"), ("flags", "I"))
OWN_KEY = Layout("mesh_own_key", ("cgroup_id", "Q"), ("netns", "Q"), ("at", "20s"), ("pad", "I"))
STEER_KEY = Layout(
    "mesh_steer_key", ("netns", "Q"), ("at", "20s"), ("worker", "H"), ("protocol", "B"), ("pad", "B"),
)  # fmt: skip
EGRESS = Layout(
    "mesh_egress", ("tcp_allowed", "Q"), ("tcp_refused", "Q"), ("udp_allowed", "Q"), ("udp_refused", "Q"),
    ("other_refused", "Q"),
)  # fmt: skip
REFUSED_KEY = Layout("mesh_refused_key", ("cgroup_id", "Q"), ("to", "20s"), ("protocol", "I"))
REFUSED = Layout("mesh_refused", ("count", "Q"), ("ktime", "Q"), ("pid", "I"), ("pad", "I"))

LAYOUTS = (
    ENDPOINT, DESTINATION, CGROUP, USER_KEY, LISTENER, CONFIG, ORIGIN, FLOW_KEY, FLOW, DIAL_KEY, CLIENT,
    DNS, RESOLVERS, ASKER, ASKED, DOOR_KEY, DOOR, PORT_KEY, PORT, OWN_KEY, STEER_KEY, EGRESS, REFUSED_KEY, REFUSED,
)  # fmt: skip


class CgroupFlag(IntFlag):
    """``enum mesh_cgroup_flag``."""

    NO_DNS = 1
    REGISTRY_ONLY = 2
    BY_USER = 4
    ONLY_USERS = 8
    LEFT = 16


class DestinationFlag(IntFlag):
    """``enum mesh_dest_flag``."""

    SERVICE = 1
    WORKLOAD = 2
    EXTERNAL = 4


class ListenerFlag(IntFlag):
    """``enum mesh_listener_flag``."""

    V4_ONLY = 1


class DoorFlag(IntFlag):
    """``enum mesh_door_flag``."""

    STEERED = 1
    RESERVED = 2


class Crew(IntEnum):
    """``enum mesh_crew``."""

    WORKERS = 0
    SPREAD = 1


class ConfigFlag(IntFlag):
    """``enum mesh_config_flag``."""

    INCOMPLETE = 1
    SEALED = 2
    SEALED_ALONE = 4


class ClientRole(IntEnum):
    """``enum mesh_client_role``."""

    OF_DIAL = 1
    OF_SERVER = 2
    OWN = 3
    ENROLLED = 4
    OUTWARD = 5


class PortMode(IntEnum):
    """``enum mesh_port_mode``."""

    STRICT = 1
    PERMISSIVE = 2
    DISABLE = 3


class PortFlag(IntFlag):
    """``enum mesh_port_flag``."""

    PROBES = 1


class CaptureCount(IntEnum):
    """``enum mesh_count``: the index of each counter. The lower-case name is the metric label."""

    PASSED_NOT_MESH = 0
    PASSED_NOT_ENROLLED = 1
    CAPTURED = 2
    REFUSED_NO_LISTENER = 3
    REFUSED_NO_STORAGE = 4
    REFUSED_INCOMPLETE = 5
    FLOW_RECORDED = 6
    FLOW_NOT_RECORDED = 7
    FLOW_FORGOTTEN = 8
    PEER_SHOWN = 9
    BIND_REFUSED = 10
    DEPTH_EXCEEDED = 11
    CLIENT_TOLD = 12
    CLIENT_SHOWN = 13
    DIAL_NOT_RECORDED = 14
    DNS_TAKEN = 15
    DNS_TCP = 16
    DNS_NO_AGENT = 17
    DNS_NO_SLOT = 18
    DNS_NO_ROOM = 19
    INBOUND_OWN = 20
    INBOUND_PROBE = 21
    INBOUND_STEERED = 22
    INBOUND_REFUSED = 23
    INBOUND_NO_AGENT = 24
    EGRESS_REFUSED = 25
    EGRESS_TO_MESH = 26
    EGRESS_NOT_NOTED = 27
    REFUSED_SEALED = 28
    REFUSED_NO_AGENT = 29
    DOOR_NOBODY = 30
    DNS_SHARED = 31
    DNS_STRAY = 32


class AttachType(IntEnum):
    """The kernel's ``enum bpf_attach_type``, as far as programs of ours use it."""

    INET_INGRESS = 0
    INET_EGRESS = 1
    INET_SOCK_CREATE = 2
    SOCK_OPS = 3
    INET4_CONNECT = 10
    INET6_CONNECT = 11
    INET4_POST_BIND = 12
    INET6_POST_BIND = 13
    UDP4_SENDMSG = 14
    UDP6_SENDMSG = 15
    UDP4_RECVMSG = 19
    UDP6_RECVMSG = 20
    INET4_GETPEERNAME = 29
    INET6_GETPEERNAME = 30
    INET_SOCK_RELEASE = 34
    SK_LOOKUP = 36


PROGRAMS: dict[str, AttachType] = {
    "mesh_post_bind4": AttachType.INET4_POST_BIND,
    "mesh_post_bind6": AttachType.INET6_POST_BIND,
    "mesh_release": AttachType.INET_SOCK_RELEASE,
    "mesh_socket": AttachType.INET_SOCK_CREATE,
    "mesh_sockops": AttachType.SOCK_OPS,
    "mesh_peername4": AttachType.INET4_GETPEERNAME,
    "mesh_peername6": AttachType.INET6_GETPEERNAME,
    "mesh_recvmsg4": AttachType.UDP4_RECVMSG,
    "mesh_recvmsg6": AttachType.UDP6_RECVMSG,
    "mesh_sendmsg4": AttachType.UDP4_SENDMSG,
    "mesh_sendmsg6": AttachType.UDP6_SENDMSG,
    "mesh_connect4": AttachType.INET4_CONNECT,
    "mesh_connect6": AttachType.INET6_CONNECT,
}
"""Program -> hook, in the order of attaching: nothing is captured before the hooks that a captured connection needs
are in place.
"""


INBOUND_PROGRAM = "mesh_inbound"
"""Of an object of its own, attached to network namespaces."""
WIRE_PROGRAM = "mesh_wire"
"""Of an object of its own, attached to cgroups whose egress policy is REGISTRY_ONLY."""


def port_bytes(port: int) -> bytes:
    """A port in network order."""
    return port.to_bytes(2, "big")
