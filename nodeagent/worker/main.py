"""The process: its arguments, its signals, its loop."""

from __future__ import annotations

import argparse
import faulthandler
import logging
import os
import signal
import socket
from asyncio import get_running_loop

import uvloop

from nodeagent.compiled.finder import INTERPRETED
from nodeagent.limits.records import bounded_handler
from nodeagent.worker.process import die_with_parent, keep_freed_memory, raise_descriptor_limit
from nodeagent.worker.worker import Worker


async def run(channel_fd: int) -> int:
    """Serve until the manager says drain or goes away; the exit status."""
    loop = get_running_loop()
    pair = socket.socket(fileno=channel_fd)
    _, worker = await loop.create_connection(lambda: Worker(loop), sock=pair)
    await worker.stopped.wait()
    await worker.close()
    return worker.exit_code


def main(argv: list[str] | None = None, interpreted_because: str = "") -> int:
    """The process; why it runs sources, if it does not run compiled modules."""
    parser = argparse.ArgumentParser(prog="nodeagent.worker", description="carries connections for a nodeagent")
    parser.add_argument("--channel-fd", type=int, required=True, help="the socket to the manager")
    parser.add_argument("--parent", type=int, default=0, help="the manager's process id (default: the parent)")
    parser.add_argument(INTERPRETED, action="store_true", help="do not use compiled modules")
    options = parser.parse_args(argv)
    faulthandler.enable()  # a crash in C says in the log where it was: nothing else would
    die_with_parent(options.parent or os.getppid())
    raise_descriptor_limit()
    keep_freed_memory()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)  # meant for the manager, which drains us over the channel
    log_format = "%(asctime)s %(levelname)s worker %(process)d %(message)s"
    logging.basicConfig(level=logging.INFO, format=log_format, handlers=[bounded_handler()])
    if interpreted_because:
        logging.getLogger("nodeagent.worker").warning("runs interpreted, which costs more: %s", interpreted_because)
    return uvloop.run(run(options.channel_fd))
