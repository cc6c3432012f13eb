"""Connections that come and go, inside a spot: `churn.py serve PORT`, `churn.py dial PORT COUNT AT_ONCE ADDRESS…`.

The client prints how many connections carried a word there and back and ended in order; others raise. Standard library.
"""

from __future__ import annotations

import asyncio
import sys

WORD = b"a word"
BACKLOG = 1024


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Send everything back; end when the peer ends."""
    while data := await reader.read(4096):
        writer.write(data)
    writer.close()
    await writer.wait_closed()


async def serve(port: int) -> None:
    """On every address, until killed."""
    server = await asyncio.start_server(answer, None, port, backlog=BACKLOG)
    print("listening", flush=True)
    await server.serve_forever()


async def once(address: str, port: int) -> None:
    """One connection, from its beginning to its orderly end."""
    reader, writer = await asyncio.open_connection(address, port)
    writer.write(WORD)
    writer.write_eof()
    got = await reader.read()
    if got != WORD:
        raise EOFError(f"{address}: {got!r} came back")
    writer.close()
    await writer.wait_closed()


async def dial(port: int, count: int, at_once: int, addresses: list[str]) -> int:
    """`count` connections in all, the addresses in turn."""
    numbers = iter(range(count))
    done = 0

    async def work() -> None:
        nonlocal done
        for number in numbers:
            await once(addresses[number % len(addresses)], port)
            done += 1

    async with asyncio.TaskGroup() as group:
        for _ in range(at_once):
            group.create_task(work())
    return done


def main() -> None:
    verb, port, *rest = sys.argv[1:]
    if verb == "serve":
        asyncio.run(serve(int(port)))
    else:
        count, at_once, *addresses = rest
        print(asyncio.run(dial(int(port), int(count), int(at_once), addresses)))


if __name__ == "__main__":
    main()
