"""A worker process that carries nothing: it speaks the channel, and tells what it was told.

``Collect`` is answered with one sample whose labels name the messages received; a file ``crash`` in ``--directory``
makes it end before it is ready, ``mute`` keeps it from answering, ``stubborn`` from ending.
"""

from __future__ import annotations

import argparse
import os
import signal
import socket
import sys
from pathlib import Path

from nodeagent import channel
from nodeagent.telemetry.samples import CounterSample


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--parent", type=int)
    parser.add_argument("--channel-fd", type=int)
    options = parser.parse_args()
    if (options.directory / "crash").exists():
        sys.exit(3)
    if (options.directory / "stubborn").exists():
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pair = socket.socket(fileno=options.channel_fd)
    unpacker, heard = channel.Unpacker(), list[str]()
    while data := pair.recv(65536):
        for message in unpacker.feed(data):
            heard.append(type(message).__name__)
            for answer in answers(message, heard, mute=(options.directory / "mute").exists()):
                pair.sendall(channel.pack(answer))
            if isinstance(message, channel.Drain):
                return
    while (options.directory / "stubborn").exists():
        signal.pause()


def answers(message: channel.Message, heard: list[str], *, mute: bool) -> list[channel.Message]:
    """What a worker says to that."""
    match message:
        case channel.Begin():
            return [channel.Ready(pid=os.getpid())]
        case channel.EnrolmentUpdate():
            return [channel.Heard(edition=message.edition)]
        case channel.StateBatch() if not message.more:
            return [channel.BatchApplied(revision=message.batch.revision)]
        case channel.Namespaces():
            states = [channel.NamespaceState(cookie=entry.cookie, listening=True) for entry in message.namespaces]
            return [channel.Inside(states=tuple(states))]
        case channel.Collect() if not mute:
            sample = CounterSample(name="heard_total", labels={"messages": ",".join(heard)}, value=1)
            return [channel.collected(message.number, [sample])]
        case channel.ListFlows() if not mute:
            return [channel.FlowList(number=message.number, flows=({"id": 1},))]
        case channel.Drain():
            return [channel.Drained(cut=2)]
        case _:
            return []


if __name__ == "__main__":
    main()
