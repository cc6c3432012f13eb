"""What deploy/ shows must be what the programs read."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner

from control.main import main as control
from nodeagent.cli.main import main as nodeagent
from nodeagent.config import Config, load
from nodeagent.manager.vitals import BEATS, LOOK_SECONDS, SILENT_SECONDS

DEPLOY = Path(__file__).parents[3] / "deploy"


def test_the_example_settings_can_be_read() -> None:
    config = load({}, DEPLOY / "config" / "nodeagent.yaml")
    assert (config.node, config.control) == ("node-a", "https://control.example:15010")


def test_what_is_commented_out_in_the_example_is_the_default(tmp_path: Path) -> None:
    text = (DEPLOY / "config" / "nodeagent.yaml").read_text()
    uncommented = re.sub(r"(?m)^# (?=[a-z_]+:|  [a-z_]+:)", "", text)
    assert uncommented != text
    (tmp_path / "all.yaml").write_text(uncommented)
    shown = load({}, tmp_path / "all.yaml")
    default = Config(node=shown.node, control=shown.control, token_file=shown.token_file, cgroup_root=shown.cgroup_root)
    assert shown == default


def test_kubernetes_objects_are_well_formed_and_name_settings_that_exist() -> None:
    objects = list(yaml.safe_load_all((DEPLOY / "kubernetes" / "nodemesh.yaml").read_text()))
    kinds = [item["kind"] for item in objects]
    assert kinds == ["Namespace", "PersistentVolumeClaim", "Service", "Deployment", "DaemonSet"]
    (container,) = objects[-1]["spec"]["template"]["spec"]["containers"]
    strings = {entry["name"]: entry.get("value", "node-a") for entry in container["env"]}
    assert load(strings).control == "https://control.nodemesh-system.svc:15010"
    names = {volume["name"] for volume in objects[-1]["spec"]["template"]["spec"]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == names


@pytest.mark.parametrize("unit", ["nodeagent.service", "nodemesh-seal.service", "control.service"])
def test_units_run_commands_that_exist(unit: str) -> None:
    line = next(line for line in (DEPLOY / "systemd" / unit).read_text().splitlines() if line.startswith("ExecStart="))
    program, *arguments = line.removeprefix("ExecStart=").split()
    group = {"nodeagent": nodeagent, "control": control}[Path(program).name]
    options = [item for item in arguments[1:] if item.startswith("--")]
    known = CliRunner().invoke(group, [arguments[0], "--help"]).output
    assert all(option in known for option in options)


def test_the_agent_tells_systemd_how_it_is() -> None:
    unit = (DEPLOY / "systemd" / "nodeagent.service").read_text().splitlines()
    assert {"Type=notify", "NotifyAccess=main", "StartLimitIntervalSec=0", "TimeoutStartSec=infinity"} <= set(unit)
    watchdog = next(line for line in unit if line.startswith("WatchdogSec="))
    assert float(watchdog.partition("=")[2]) > SILENT_SECONDS + BEATS * LOOK_SECONDS


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
@pytest.mark.parametrize("unit", ["nodeagent.service", "nodemesh-seal.service", "control.service"])
def test_units_pass_systemds_own_check(unit: str, tmp_path: Path) -> None:
    text = (DEPLOY / "systemd" / unit).read_text()
    path = tmp_path / unit
    path.write_text(re.sub(r"ExecStart=\S+", "ExecStart=/bin/true", text))
    result = subprocess.run(["systemd-analyze", "verify", str(path)], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, "")
