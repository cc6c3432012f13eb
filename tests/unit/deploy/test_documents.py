"""What the documents tell people to write and to type must work."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from control.cli.meshctl import meshctl
from control.main import main as control
from nodeagent.cli.main import main as nodeagent
from tests.support.mesh import make_registry

ROOT = Path(__file__).parents[3]
DOCUMENTS = ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "vm-lab/README.md", "deploy/kubernetes/README.md")
GROUPS: dict[str, click.Group] = {"nodeagent": nodeagent, "control": control, "meshctl": meshctl}


def resources() -> list[Any]:
    """Every object of the README, and of the example."""
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    return [item for block in blocks for item in yaml.safe_load_all(block)]


def test_the_readmes_resources_are_accepted() -> None:
    registry, _ = make_registry()
    assert {outcome.action for outcome in registry.apply(resources())} == {"created"}


def test_the_example_mesh_is_accepted() -> None:
    registry, _ = make_registry()
    objects = list(yaml.safe_load_all((ROOT / "deploy" / "config" / "mesh.yaml").read_text()))
    assert {outcome.action for outcome in registry.apply(objects)} == {"created"}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_command_that_is_quoted_exists(document: str) -> None:
    text = (ROOT / document).read_text()
    made = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    blocks = re.findall(r"```console\n(.*?)```", text, re.DOTALL)
    prose = re.sub(r"```.*?```", "", text, flags=re.DOTALL)
    quoted = [line for block in blocks for line in block.splitlines()]
    quoted += re.findall(r"`([^`\n]+)`", prose) + re.findall(r"^    \S.*$", prose, re.MULTILINE)
    for line in quoted:
        for program, words in re.findall(r"(?<![\w./-])(nodeagent|meshctl|control) ((?:[a-z-]+ ?)+)", line):
            _check(program, words.split(), line)
        for targets in re.findall(r"\bmake ((?:[a-z-]+\b ?)+)", line):
            assert set(targets.split()) <= made, line


def _check(program: str, words: list[str], line: str) -> None:
    command: click.Command = GROUPS[program]
    for word in words:
        if not isinstance(command, click.Group):
            return
        assert word in command.commands, line
        command = command.commands[word]
