"""Whether a network namespace has the IPv6 loopback address: container runtimes switch IPv6 off."""

from __future__ import annotations

import socket

from nodeagent.namespaces.entry import NamespaceError, OpenNamespace, enter


def has_ipv6_loopback(namespace: OpenNamespace | None) -> bool:
    """Whether ::1 is there (None: in the calling thread's namespace). Some microseconds."""

    def bind() -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_STREAM) as probe:
            probe.bind(("::1", 0))

    try:
        if namespace is None:
            bind()
        else:
            enter(namespace, bind)
    except (OSError, NamespaceError):
        return False
    return True
