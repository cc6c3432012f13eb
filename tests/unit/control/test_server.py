"""The listener's certificate is renewed in the running process."""

from __future__ import annotations

import asyncio
import ssl
from pathlib import Path

from control.config import Config
from control.server import Control, initialise, listen, open_store
from control.wire.address import SocketAddress

WAIT_SECONDS = 30.0


def test_new_connections_see_a_renewed_certificate(tmp_path: Path) -> None:
    config = Config(state_dir=tmp_path / "s", listen=SocketAddress("127.0.0.1", 0), server_lifetime=2.0)

    async def certificate(port: int) -> bytes:
        context = ssl.create_default_context(cafile=tmp_path / "s/operator/ca.pem")
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context)
        try:
            der: bytes = writer.get_extra_info("ssl_object").getpeercert(True)
            return der
        finally:
            writer.close()
            await writer.wait_closed()

    async def story() -> None:
        keys, _ = initialise(config)
        store, sock, ready = open_store(config), listen(config.listen), asyncio.Event()
        port = sock.getsockname()[1]
        control = Control(config, keys, store)
        running = asyncio.ensure_future(control.run(sock, ready.set))
        await asyncio.wait_for(ready.wait(), WAIT_SECONDS)
        first = await certificate(port)
        async with asyncio.timeout(WAIT_SECONDS):
            while await certificate(port) == first:
                await asyncio.sleep(0.1)
        control.stop()
        await asyncio.wait_for(running, WAIT_SECONDS)
        store.close()

    asyncio.run(story())
