"""``control init`` and ``control run`` as processes: clear errors, an orderly end, real TLS."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from cryptography import x509

from control.ca.authority import key_pem, new_key
from control.ca.keys import prepare, write_operator
from control.codec.content import Content
from control.codec.lines import read_whole
from control.wire.ids import SpiffeId, operator_id
from tests.support.control_process import START_SECONDS, ControlProcess, make_csr, running_control
from tests.support.mesh import node, policy, workload


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    with running_control(tmp_path_factory.mktemp("control") / "state", "--advertise", "control.example") as running:
        with running.operator() as operator:
            operator.post("/v1/apply", json={"objects": [node(), workload()]}).raise_for_status()
        yield running


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "control.main", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=START_SECONDS, check=False)


def refused(*arguments: str) -> list[str]:
    done = run(*arguments)
    assert done.returncode == 1, done
    assert "Traceback" not in done.stderr
    return done.stderr.splitlines()


def test_init_makes_credentials_and_is_idempotent(tmp_path: Path) -> None:
    first, second = run("init", "--state-dir", str(tmp_path / "s")), run("init", "--state-dir", str(tmp_path / "s"))
    assert first.returncode == second.returncode == 0
    assert first.stdout == second.stdout
    assert str(tmp_path / "s" / "operator") in first.stdout


def test_errors_are_single_lines_that_say_what_to_do(tmp_path: Path, control: ControlProcess) -> None:
    state = str(tmp_path / "s")
    (taken,) = refused("run", "--state-dir", state, "--listen", f"127.0.0.1:{control.port}")
    assert "Address already in use" in taken and "--listen" in taken
    (busy,) = refused("run", "--state-dir", str(control.state), "--listen", "127.0.0.1:0")
    assert "in use by another control" in busy
    (tmp_path / "file").write_text("")
    (bad,) = refused("run", "--state-dir", str(tmp_path / "file"), "--listen", "127.0.0.1:0")
    assert "--state-dir" in bad
    (domain,) = refused("init", "--state-dir", state, "--trust-domain", "other.example")
    assert "'mesh.internal'" in domain
    (tmp_path / "s" / "control.db").write_text("damaged" * 1000)
    (damaged,) = refused("run", "--state-dir", state, "--listen", "127.0.0.1:0")
    assert "control.db" in damaged


def test_all_wrong_settings_are_told_at_once(tmp_path: Path) -> None:
    lines = refused(
        "run",
        "--state-dir",
        str(tmp_path),
        "--listen",
        "here",
        "--advertise",
        "a b",
        "--svid-lifetime",
        "1y",
        "--node-lifetime",
        "1s",
        "--trust-domain",
        "A",
        "--cluster",
        "",
    )
    assert [line.split(":")[1].strip() for line in lines] == [
        "--trust-domain",
        "--listen",
        "--cluster",
        "--advertise",
        "--svid-lifetime",
        "--node-lifetime",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_ends_in_order_while_agents_watch(tmp_path: Path, number: signal.Signals) -> None:
    with running_control(tmp_path / "s") as running:
        with running.operator() as operator:
            operator.post("/v1/apply", json={"objects": [node()]})
        with running.join("node-a", tmp_path) as agent, agent.stream("GET", "/v1/watch") as stream:
            lines = stream.iter_lines()
            next(lines)
            running.process.send_signal(number)
            assert list(lines) == [], "the stream ends cleanly"
        assert running.process.wait(START_SECONDS) == 0
        assert running.process.stderr is not None
        assert running.process.stderr.read() == ""


def test_everything_is_there_after_a_restart(tmp_path: Path) -> None:
    for created in ("created", "unchanged"):
        with running_control(tmp_path / "s") as running, running.operator() as operator:
            answer = operator.post("/v1/apply", json={"objects": [node(), policy()]}).json()
            assert {item["action"] for item in answer["results"]} == {created}


def test_an_agent_joins_gets_its_svid_and_watches(control: ControlProcess, tmp_path: Path) -> None:
    with control.join("node-a", tmp_path) as agent:
        body = {"identity": "spiffe://mesh.internal/ns/shop/sa/web", "csr": make_csr()[1]}
        assert "BEGIN CERTIFICATE" in agent.post("/v1/svids", json=body).json()["chain"]
        with agent.stream("GET", "/v1/watch") as stream:
            lines = stream.iter_lines()
            snapshot = next(lines).encode()
            first = json.loads(snapshot)
            assert first["snapshot"] and {c["kind"] for c in first["changes"]} == {"bundle", "mesh", "workload"}
            with control.operator() as operator:
                operator.post("/v1/apply", json={"objects": [policy("live")]})
                delta = httpx.Response(200, text=next(lines)).json()
                assert {c["kind"] for c in delta["changes"]} == {"policy", "workload"}
                state = operator.get("/v1/nodes/status").json()
        assert state["items"][0]["watching"] and state["items"][0]["revision"] >= first["revision"]
        content = Content()
        for change in read_whole(snapshot).changes:
            content.put(change.kind, change.uid, change.value)
        resumed = {"instance": first["instance"], "revision": first["revision"], "content": content.digest()}
        with agent.stream("GET", "/v1/watch", params=resumed) as stream:
            again = httpx.Response(200, text=next(stream.iter_lines())).json()
        assert again == delta


def handshake(control: ControlProcess, context: ssl.SSLContext, name: str = "127.0.0.1") -> tuple[str, bytes]:
    """(TLS version, answer to a request). A refused client certificate shows at the first read: an error or an end."""
    with (
        socket.create_connection(("127.0.0.1", control.port), timeout=20) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        tls.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        answer = b""
        with contextlib.suppress(ConnectionResetError, ssl.SSLError):
            while chunk := tls.recv(65536):
                answer += chunk
        return str(tls.version()), answer


def test_tls_is_new_and_the_names_are_ours(control: ControlProcess) -> None:
    for name in ("127.0.0.1", "::1", "localhost", "control.example"):
        version, answer = handshake(control, control.tls(), name)
        assert version == "TLSv1.3" and b" 401 " in answer
    with pytest.raises(ssl.SSLCertVerificationError):
        handshake(control, control.tls(), "elsewhere.example")
    old = control.tls()
    old.maximum_version = ssl.TLSVersion.TLSv1_2
    assert handshake(control, old)[0] == "TLSv1.2"


def test_a_certificate_of_another_mesh_is_refused_by_tls(control: ControlProcess, tmp_path: Path) -> None:
    foreign = prepare(tmp_path / "foreign", "mesh.internal", time.time())
    directory = write_operator(tmp_path / "foreign", foreign, operator_id("mesh.internal", "admin"), time.time())
    assert handshake(control, control.tls(directory / "cert.pem", directory / "key.pem"))[1] == b""


@pytest.mark.parametrize(
    ("identity", "lifetime", "outcome"),
    [
        ("spiffe://mesh.internal/operator/admin", 3600, " 200 "),
        ("spiffe://mesh.internal/ns/shop/sa/web", 3600, " 403 "),
        ("spiffe://mesh.internal/operator/admin", -30, None),
    ],
)
def test_certificates_of_this_mesh(
    control: ControlProcess,
    tmp_path: Path,
    identity: str,
    lifetime: float,
    outcome: str | None,
) -> None:
    keys = prepare(control.state, "mesh.internal", time.time())
    key = new_key()
    chain = keys.authority.issue(SpiffeId.parse(identity), key.public_key(), time.time(), lifetime)
    (tmp_path / "c.pem").write_text(chain)
    (tmp_path / "k.pem").write_text(key_pem(key))
    context = control.tls(tmp_path / "c.pem", tmp_path / "k.pem")
    answer = handshake(control, context)[1]
    assert answer == b"" if outcome is None else outcome.encode() in answer


def test_the_ca_itself_cannot_log_in(control: ControlProcess) -> None:
    context = control.tls(control.state / "ca/root.pem", control.state / "ca/root.key")
    assert handshake(control, context)[1] == b""


def test_rubbish_does_not_stop_it(control: ControlProcess) -> None:
    for data in (b"", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01\xff\xff" + b"\x00" * 500, b"\xff" * 5000):
        with socket.create_connection(("127.0.0.1", control.port), timeout=20) as plain:
            plain.sendall(data)
    for request in (b"\x00" * 100 + b"\r\n\r\n", b"GET / HTTP/1.1\r\nX: " + b"x" * 200_000 + b"\r\n\r\n"):
        with (
            socket.create_connection(("127.0.0.1", control.port), timeout=20) as plain,
            control.tls().wrap_socket(plain, server_hostname="127.0.0.1") as tls,
        ):
            try:
                tls.sendall(request)
                answer = tls.recv(1000)
            except OSError:
                continue
            assert answer == b"" or b" 400 " in answer
    with control.anonymous() as anonymous:
        assert anonymous.get("/readyz").status_code == 200


def test_a_watch_ends_with_the_nodes_certificate(tmp_path: Path) -> None:
    with running_control(tmp_path / "s", "--node-lifetime", "2s") as running:
        with running.operator() as operator:
            operator.post("/v1/apply", json={"objects": [node()]})
        with running.join("node-a", tmp_path) as agent, agent.stream("GET", "/v1/watch") as stream:
            assert len(list(stream.iter_lines())) == 1
        leaf = x509.load_pem_x509_certificate((tmp_path / "node-a.pem").read_bytes())
        assert (leaf.not_valid_after_utc - leaf.not_valid_before_utc).total_seconds() <= 63


@pytest.mark.slow
def test_a_watcher_that_does_not_read_is_cut_off(control: ControlProcess, tmp_path: Path) -> None:
    """It is stuck in writing, not in its queue: only cutting the connection frees what it holds."""
    control.join("node-a", tmp_path).close()
    context = control.tls(tmp_path / "node-a.pem", tmp_path / "node-a.key")
    plain = socket.socket()
    plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    plain.connect(("127.0.0.1", control.port))
    with context.wrap_socket(plain, server_hostname="127.0.0.1") as tls, control.operator() as operator:
        tls.sendall(b"GET /v1/watch HTTP/1.1\r\nHost: x\r\n\r\n")
        assert tls.recv(1)

        def watching() -> bool:
            return bool(operator.get("/v1/nodes/status").json()["items"][0]["watching"])

        assert watching()
        for number in range(400):
            principals = [f"td-{number}/ns/shop/sa/{'s' * 1900}-{n}" for n in range(30)]
            big = policy("big", rules=[{"from": [{"source": {"principals": principals}}]}])
            operator.post("/v1/apply", json={"objects": [big]}).raise_for_status()
            if not watching():
                break
        assert not watching(), f"still held after {number + 1} batches"
        assert number > 60, "a queue's worth at least"
        operator.delete("/v1/namespaces/shop/authorizationpolicies/big")
