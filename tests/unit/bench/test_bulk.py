"""The bulk program: its bytes arrive and are counted; what is wrong is said."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.bench import compiled, outputs
from tests.bench.figures import RunError
from tests.bench.processes import Process, wait_listening

PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.bulk_program(tmp_path_factory.mktemp("bulk") / "bulk")


@contextlib.contextmanager
def _serving(program: Path, log: Path) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    with log.open("wb") as output, subprocess.Popen([program, "serve", str(port)], stdout=output) as server:
        try:
            wait_listening(Process("bulk", server, log), [port])
            yield port
        finally:
            server.kill()


def _sent(program: Path, *arguments: str) -> str:
    done = subprocess.run([program, "send", *arguments], stdout=subprocess.PIPE, timeout=PATIENCE_S, check=False)
    return done.stdout.decode()


@pytest.mark.parametrize("streams", [1, 8])
def test_all_bytes_of_all_streams_arrive(program: Path, tmp_path: Path, streams: int) -> None:
    with _serving(program, tmp_path / "log") as port:
        for _ in range(2):  # a server serves more than once
            transfer = outputs.bulk(_sent(program, "127.0.0.1", str(port), str(streams), "0.1"), streams)
            assert transfer.octets > 0


@pytest.mark.parametrize(
    ("answer", "said"),
    [((1).to_bytes(8, "big"), "the server counts other bytes than were sent"), (b"", "the server's count")],
    ids=["miscounted", "cut"],
)
def test_a_receiver_that_did_not_get_all_is_an_error(program: Path, answer: bytes, said: str) -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        subprocess.Popen(
            [program, "send", "127.0.0.1", str(server.getsockname()[1]), "1", "0.05"], stdout=subprocess.PIPE
        ) as client,
    ):
        connection, _ = server.accept()
        with connection:
            while connection.recv(1 << 20):
                pass
            connection.sendall(answer)
        out, _ = client.communicate(timeout=PATIENCE_S)
    assert client.returncode == 1
    assert json.loads(out)["error"].startswith(said)


def test_nobody_there_is_an_error(program: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(RunError, match="connect: Connection refused"):
        outputs.bulk(_sent(program, "127.0.0.1", str(port), "1", "1"), 1)


def test_it_is_compiled_anew_when_its_source_is_newer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source, target = tmp_path / "bulk.c", tmp_path / "below" / "bulk"
    monkeypatch.setattr(compiled, "SOURCE", source)

    def write(value: str) -> None:
        source.write_text(f"int main(void) {{ return {value}; }}")
        if target.exists():
            later = target.stat().st_mtime + 1
            os.utime(source, (later, later))

    for status in (3, 4):
        write(str(status))
        assert subprocess.run([compiled.bulk_program(target)], check=False).returncode == status
    write("nothing")
    with pytest.raises(RunError, match=r"(?s)bulk.c does not compile: .*undeclared"):
        compiled.bulk_program(target)
