"""meshctl against a real control: what it prints, and how it fails."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml

from control.cli import meshctl
from tests.support.control_process import ControlProcess, running_control
from tests.support.mesh import node, peer, policy, service, workload

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def control(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlProcess]:
    with running_control(tmp_path_factory.mktemp("control") / "state") as running:
        yield running


@pytest.fixture
def run(control: ControlProcess, capsys: pytest.CaptureFixture[str]) -> Run:
    def call(*arguments: str, **environment: str) -> tuple[int, str, str]:
        strings = {"NODEMESH_CONTROL": control.url, "NODEMESH_CREDENTIALS": str(control.credentials), **environment}
        capsys.readouterr()
        code = 0
        try:
            meshctl.main(arguments, strings)
        except SystemExit as stop:
            code = int(stop.code or 0)
        found = capsys.readouterr()
        return code, found.out, found.err

    return call


@pytest.fixture
def mesh(run: Run, tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "mesh.yaml"
    path.write_text(yaml.safe_dump_all([workload(), service(), node(), policy(), peer()]))
    assert run("apply", "-f", str(path))[0] == 0
    yield path
    run("delete", "-f", str(path), "--ignore-missing")


def test_apply_says_what_became_of_each_object(run: Run, mesh: Path) -> None:
    code, out, err = run("apply", "-f", str(mesh))
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "Workload shop/web-0 unchanged",
        "Service shop/web unchanged",
        "Node node-a unchanged",
        "AuthorizationPolicy shop/deny unchanged",
        "PeerAuthentication shop/default unchanged",
    ]
    mesh.write_text(mesh.read_text().replace("8080", "8081"))
    dry = run("apply", "--dry-run", "-f", str(mesh))[1]
    assert "Service shop/web configured (dry run)" in dry
    assert "Service shop/web configured" in run("apply", "-f", str(mesh))[1]


def test_apply_names_file_document_and_field_and_changes_nothing(run: Run, mesh: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.yaml"
    wrong = policy("bad", rules=[{"from": [{"source": {"principalz": ["a"]}}]}])
    bad.write_text(yaml.safe_dump_all([policy("good"), wrong]))
    code, out, err = run("apply", "-f", str(bad))
    assert (code, out) == (1, "")
    assert err == (
        f"meshctl: {bad}, document 2: AuthorizationPolicy shop/bad: "
        "spec.rules[0].from[0].source.principalz: unknown field\n"
    )
    assert run("get", "ap", "good", "-n", "shop")[0] == 1


def test_tables_are_aligned_and_plain(run: Run, mesh: Path) -> None:
    code, out, _ = run("get", "workloads")
    header, row = out.splitlines()
    assert code == 0 and "\x1b" not in out
    assert header.split() == ["NAMESPACE", "NAME", "NODE", "SERVICE-ACCOUNT", "PORTS", "PROCESSES", "AGE"]
    assert row.split()[:6] == ["shop", "web-0", "node-a", "web", "-", "web-0.service"]
    assert header.index("NODE") == row.index("node-a")
    assert "LABELS" in run("get", "wl", "-o", "wide")[1]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("no", "10.0.0.1,fd00::1"),
        ("svc", "80->8080/http"),
        ("ap", "ALLOW"),
        ("pa", "STRICT"),
        ("Service", "fd6d:6573:68::"),
    ],
)
def test_every_kind_has_its_table(run: Run, mesh: Path, kind: str, words: str) -> None:
    assert words in run("get", kind, "-A")[1]


def test_output_can_be_applied_again(run: Run, mesh: Path, tmp_path: Path) -> None:
    for output in ("yaml", "json"):
        copy = tmp_path / f"copy.{output}"
        copy.write_text(run("get", "services", "-n", "shop", "-o", output)[1])
        assert run("apply", "-f", str(copy)) == (0, "Service shop/web unchanged\n", "")
    assert json.loads(run("get", "svc", "web", "-n", "shop", "-o", "json")[1])["status"]["addresses"]
    assert run("get", "svc", "-o", "name")[1] == "Service shop/web\n"


def test_nothing_there_is_said_aside(run: Run, mesh: Path) -> None:
    code, out, err = run("get", "workloads", "-n", "empty")
    assert (code, out, err) == (0, "", "no workloads in namespace empty\n")
    assert run("get", "workloads", "none", "-n", "shop")[2] == "meshctl: Workload shop/none: not found\n"


def test_describe_tells_what_belongs_together(run: Run, mesh: Path) -> None:
    for kind, name, words in (
        ("node", "node-a", "agent:\n  node-a: never seen since control started"),
        ("node", "node-a", "workloads on it:\n  shop/web-0 on node-a"),
        ("workload", "web-0", "services that select it:\n  shop/web"),
        ("workload", "web-0", "identity:\n  spiffe://mesh.internal/ns/shop/sa/web"),
        ("workload", "web-0", "policies that select it:\n  shop/deny (ALLOW)"),
        ("workload", "web-0", "peer authentications that select it:\n  shop/default (STRICT)"),
        ("service", "web", "workloads that it selects:\n  shop/web-0 on node-a"),
        ("ap", "deny", "workloads that it selects:\n  shop/web-0 on node-a"),
    ):
        assert words in run("describe", kind, name, "-n", "shop")[1]


def test_describe_shows_policies_for_the_whole_mesh_and_none_of_other_namespaces(
    run: Run, mesh: Path, tmp_path: Path
) -> None:
    more = tmp_path / "more.yaml"
    more.write_text(
        yaml.safe_dump_all([policy("all", "nodemesh-system", action="DENY", rules=[{}]), policy("other", "pay")])
    )
    assert run("apply", "-f", str(more))[0] == 0
    out = run("describe", "workload", "web-0")[1]
    assert "policies that select it:\n  nodemesh-system/all (DENY)\n  shop/deny (ALLOW)\n" in out
    assert run("delete", "-f", str(more))[0] == 0


@pytest.mark.parametrize("verb", ["get", "describe"])
def test_a_name_is_found_in_its_namespace(run: Run, mesh: Path, tmp_path: Path, verb: str) -> None:
    assert run(verb, "workload", "web-0")[0] == 0, "only shop has one"
    assert run(verb, "workload", "shop/web-0")[0] == 0, "as apply prints it"
    assert run(verb, "workload", "pay/web-0")[2] == "meshctl: Workload pay/web-0: not found\n"
    assert run(verb, "workload", "nobody")[2] == "meshctl: Workload default/nobody: not found\n"
    second = tmp_path / "second.yaml"
    second.write_text(yaml.safe_dump(workload("web-0", namespace="pay", selectors={"cgroupPath": "/pay/web-0"})))
    assert run("apply", "-f", str(second))[0] == 0
    code, _, err = run(verb, "workload", "web-0")
    assert (code, err) == (1, "meshctl: Workload web-0 is in several namespaces (pay, shop); choose one with -n\n")
    assert run("delete", "workload", "web-0")[0] == 1, "what is deleted is named whole"
    assert run("delete", "workload", "pay/web-0")[1] == "Workload pay/web-0 deleted\n"


def test_delete_one_or_what_a_file_names(run: Run, mesh: Path) -> None:
    assert run("delete", "ap", "deny", "-n", "shop")[1] == "AuthorizationPolicy shop/deny deleted\n"
    code, _, err = run("delete", "-f", str(mesh))
    assert code == 1
    assert f"{mesh}, document 4: AuthorizationPolicy shop/deny: not found" in err
    assert run("delete", "-f", str(mesh), "--ignore-missing")[1].count("deleted") == 4
    assert run("delete", "node")[0] == 2
    assert run("delete", "node", "x", "-f", str(mesh))[0] == 2


def test_tokens(run: Run, mesh: Path) -> None:
    code, out, _ = run("token", "create", "--node", "node-a", "--ttl", "5m")
    identifier = out.split(".")[1]
    assert code == 0 and out.startswith("nm1.") and out.count("\n") == 1
    listed = run("token", "list")[1]
    assert identifier in listed and "unused" in listed and out.split(".")[2] not in listed
    for output, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert identifier in [item["id"] for item in read(run("token", "list", "-o", output)[1])]
        assert read(run("token", "create", "--node", "node-a", "-o", output)[1])["token"].startswith("nm1.")
    assert run("token", "revoke", identifier)[1] == f"token {identifier} revoked\n"
    assert run("token", "create", "--node", "none")[2].startswith("meshctl: Node none")
    assert run("token", "create", "--node", "node-a", "--ttl", "soon")[0] == 2


def test_status(run: Run, mesh: Path) -> None:
    out = run("status")[1]
    assert "mesh.internal" in out
    assert [line.split() for line in out.splitlines()[-2:]] == [
        ["NODE", "AGENT", "LAST", "SENT", "REVISION", "BEHIND"],
        ["node-a", "never", "seen", "-", "-", "-"],
    ]
    for output, read in (("json", json.loads), ("yaml", yaml.safe_load)):
        assert read(run("status", "-o", output)[1])["control"]["cluster"] == "nodemesh"


def test_errors_are_single_lines(run: Run, tmp_path: Path) -> None:
    for arguments, environment, words in (
        (("status",), {"NODEMESH_CONTROL": "https://127.0.0.1:1"}, "is control running there?"),
        (("status",), {"NODEMESH_CONTROL": "http://x"}, "https only"),
        (("status",), {"NODEMESH_CREDENTIALS": str(tmp_path)}, "--credentials"),
        (("apply", "-f", str(tmp_path / "none.yaml")), {}, "No such file"),
    ):
        code, out, err = run(*arguments, **environment)
        assert (code, out) == (1, "")
        assert err.startswith("meshctl: ") and err.count("\n") == 1 and words in err


def test_a_wrong_kind_lists_the_known_ones(run: Run) -> None:
    code, _, err = run("get", "pods")
    assert code == 2 and "workloads (wl)" in err


@pytest.mark.parametrize("verb", ["", "apply", "get", "delete", "describe", "token", "token create", "status"])
def test_help_needs_no_credentials(run: Run, verb: str) -> None:
    code, out, _ = run(*verb.split(), "--help", NODEMESH_CREDENTIALS="/nowhere")
    assert code == 0 and "Usage:" in out
