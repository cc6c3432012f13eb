"""Flags win over the environment, the environment over the file, the file over the defaults."""

from __future__ import annotations

from pathlib import Path

import pytest

from control.cli import access
from control.cli.access import AccessError


def credentials(directory: Path) -> str:
    directory.mkdir()
    for name in access.CREDENTIAL_FILES:
        (directory / name).write_text("")
    return str(directory)


def test_precedence(tmp_path: Path) -> None:
    by_flag, by_environment, by_file = (credentials(tmp_path / name) for name in ("flag", "environment", "file"))
    (tmp_path / "nodemesh").mkdir()
    (tmp_path / "nodemesh/meshctl.yaml").write_text(f"control: https://file:1\ncredentials: {by_file}\n")
    file = {"XDG_CONFIG_HOME": str(tmp_path)}
    environment = {**file, "NODEMESH_CONTROL": "environment:2", "NODEMESH_CREDENTIALS": by_environment}
    assert access.load(None, None, file) == access.Access(control="https://file:1", credentials=Path(by_file))
    assert access.load(None, None, environment) == access.Access(
        control="https://environment:2", credentials=Path(by_environment)
    )
    assert access.load("https://flag:3/", by_flag, environment) == access.Access(
        control="https://flag:3", credentials=Path(by_flag)
    )


def test_what_is_wrong_is_said(tmp_path: Path) -> None:
    directory = credentials(tmp_path / "c")
    with pytest.raises(AccessError, match="https only"):
        access.load("http://x", directory, {})
    with pytest.raises(AccessError, match=r"cert\.pem.*NODEMESH_CREDENTIALS"):
        access.load(None, str(tmp_path / "none"), {})
    (tmp_path / "nodemesh").mkdir()
    for text, words in (("contrl: x", "unknown setting 'contrl'"), ("- x", "expected lines"), ("a: [", "meshctl.yaml")):
        (tmp_path / "nodemesh/meshctl.yaml").write_text(text)
        with pytest.raises(AccessError, match=words):
            access.load(None, directory, {"XDG_CONFIG_HOME": str(tmp_path)})
