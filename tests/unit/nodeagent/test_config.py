from __future__ import annotations

from pathlib import Path

import pytest

from nodeagent.config import Config, ConfigError, Ports, load
from nodeagent.containers.node import Places


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "nodeagent.yaml"
    path.write_text(text)
    return path


def problems(tmp_path: Path, text: str, strings: dict[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load(strings or {}, write(tmp_path, text))
    return caught.value.problems


def test_every_setting_can_be_written_in_the_file(tmp_path: Path) -> None:
    config = load(
        {},
        write(
            tmp_path,
            """
            node: node-a
            control: https://control.mesh:15010/
            token: nm1.a.b.c
            token_file: /etc/nodemesh/token
            state_dir: /s
            run_dir: /r
            cgroup_root: /sys/fs/cgroup/unified
            bpffs: /b
            instance: two
            addresses: [10.0.0.1, "fd00::1", "::ffff:10.0.0.2"]
            workers: 3
            ports: {outbound: 1, tunnel: 2, admin: 3, metrics: 4, ready: 5}
            containers: {oci: [/run/x, "/run/y/*"], docker: /d, podman: /p, containerd: /c}
            access_log: off
            log_level: DEBUG
            drain_seconds: 1.5
            cluster: east
            capture: false
            """,
        ),
    )
    assert config == Config(
        node="node-a",
        control="https://control.mesh:15010",
        token="nm1.a.b.c",
        token_file=Path("/etc/nodemesh/token"),
        state_dir=Path("/s"),
        run_dir=Path("/r"),
        cgroup_root=Path("/sys/fs/cgroup/unified"),
        bpffs=Path("/b"),
        instance="two",
        addresses=("10.0.0.1", "fd00::1", "10.0.0.2"),
        workers=3,
        ports=Ports(outbound=1, tunnel=2, admin=3, metrics=4, ready=5),
        containers=Places(oci=("/run/x", "/run/y/*"), docker=Path("/d"), podman=Path("/p"), containerd=Path("/c")),
        access_log="off",
        log_level="debug",
        drain_seconds=1.5,
        cluster="east",
        capture=False,
    )


def test_the_environment_wins(tmp_path: Path) -> None:
    config = load(
        {"NODEMESH_NODE": "b", "NODEMESH_PORTS_ADMIN": "7", "NODEMESH_ADDRESSES": "10.0.0.1, ::", "PATH": "/bin"},
        write(tmp_path, "node: a\nports: {admin: 1, ready: 9}\n"),
    )
    assert (config.node, config.ports.admin, config.ports.ready) == ("b", 7, 9)
    assert config.addresses == ("10.0.0.1", "::")


def test_everything_that_is_wrong_is_told_at_once(tmp_path: Path) -> None:
    found = problems(
        tmp_path,
        "nod: a\ncontrol: http://x\nports: {tunel: 1, admin: 0, ready: 99999}\nworkers: many\nstate_dir: here\n",
        {"NODEMESH_LOG_LEVEL": "loud"},
    )
    text = "\n".join(found)
    assert "nod (" in text and "did you mean 'node'?" in text
    assert "ports.tunel (" in text and "did you mean 'ports.tunnel'?" in text
    for key in (
        "control (",
        "ports.admin (",
        "ports.ready (",
        "workers (",
        "state_dir (",
        "log_level (NODEMESH_LOG_LEVEL)",
    ):
        assert key in text
    assert "node: not set" in text
    assert len(found) == 9


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("control: https://user@host:1", "not a URL"),
        ("control: https://host:15010/path", "not a URL"),
        ("control: https://host:99999", "not a URL"),
        ("control: https://", "not a URL"),
        ("node: Node_A", "not a name"),
        ("instance: ../x", "not a name"),
        ("addresses: []", "at least one"),
        ("addresses: [fe80::1%eth0]", "scope"),
        ("addresses: [localhost]", "not an IPv4 or IPv6"),
        ("access_log: here.log", "neither"),
        ("drain_seconds: -1", "from 0 to"),
        ("drain_seconds: .nan", "from 0 to"),
        ("workers: 1.5", "whole number"),
        ("workers: true", "expected a number"),
        ("capture: maybe", "neither true nor false"),
        ("ports: 15001", "expected outbound"),
        ("containers: 1", "expected oci, docker, podman, containerd"),
        ("containers: {oci: 3}", "expected a list"),
        ("containers: {oci: [run]}", "not an absolute path"),
        ("containers: {dokcer: /x}", "did you mean 'containers.docker'"),
        ("ports: {admin: 15001}", "already ports."),
        ("token: 5", "expected text"),
        ("- a list", "keys and values"),
        ("node: [", "not YAML"),
        ("!!python/object/apply:os.system [id]", "not YAML"),
    ],
)
def test_a_wrong_value_is_refused_with_the_reason(tmp_path: Path, line: str, words: str) -> None:
    text = line if line.startswith(("node", "- ", "!!")) else f"node: a\n{line}\n"
    assert words in "\n".join(problems(tmp_path, text))


def test_a_file_that_was_asked_for_must_exist_and_the_default_need_not(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        load({"NODEMESH_NODE": "a"}, tmp_path / "absent.yaml")
    assert load({"NODEMESH_NODE": "a"}).node == "a"


def test_the_host_name_is_the_last_resort() -> None:
    assert load({}, hostname="Node-7.example.org").node == "node-7"
    assert load({"NODEMESH_NODE": "a"}, hostname="b").node == "a"


def test_variables_that_others_set_are_no_error_but_a_slip_is_noted() -> None:
    config = load({"NODEMESH_NODE": "a", "NODEMESH_CONTROL_PORT": "tcp://1.2.3.4:1", "NODEMESH_TOKENFILE": "/t"})
    assert config.notes == ("NODEMESH_TOKENFILE is not a setting; did you mean NODEMESH_TOKEN_FILE?",)


def test_the_token_is_not_shown() -> None:
    assert "secret" not in repr(load({"NODEMESH_NODE": "a", "NODEMESH_TOKEN": "nm1.a.secret.b"}))


def test_an_empty_control_is_none() -> None:
    assert load({"NODEMESH_NODE": "a", "NODEMESH_CONTROL": ""}).control == ""
