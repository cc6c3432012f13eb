"""The URL of control and the operator's credentials: from flags, then environment, then the config file, else the
defaults of the control host."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

CONTROL_VARIABLE = "NODEMESH_CONTROL"
CREDENTIALS_VARIABLE = "NODEMESH_CREDENTIALS"
DEFAULT_CONTROL = "https://127.0.0.1:15010"
DEFAULT_CREDENTIALS = "/var/lib/nodemesh-control/operator"
CONFIG_FILE = "nodemesh/meshctl.yaml"
CREDENTIAL_FILES = ("cert.pem", "key.pem", "ca.pem")


class AccessError(Exception):
    """The settings cannot be used; the message says what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """The settings of one invocation."""

    control: str
    """Its URL."""
    credentials: Path
    """A directory with cert.pem, key.pem and ca.pem."""


def load(control: str | None, credentials: str | None, strings: Mapping[str, str]) -> Access:
    """Resolve the settings; AccessError if they cannot be used.

    Args:
        control: the flag ``--control``, or None.
        credentials: the flag ``--credentials``, or None.
        strings: the environment.
    """
    base = strings.get("XDG_CONFIG_HOME") or (f"{strings['HOME']}/.config" if strings.get("HOME") else "")
    path = Path(base) / CONFIG_FILE if base else None
    settings = _file(path) if path is not None and path.is_file() else {}
    url = control or strings.get(CONTROL_VARIABLE) or settings.get("control") or DEFAULT_CONTROL
    directory = credentials or strings.get(CREDENTIALS_VARIABLE) or settings.get("credentials") or DEFAULT_CREDENTIALS
    url = url if "://" in url else f"https://{url}"
    if not url.startswith("https://"):
        raise AccessError(f"{url}: control is reached by https only")
    return Access(control=url.rstrip("/"), credentials=_usable(Path(directory).expanduser()))


def _file(path: Path) -> dict[str, str]:
    try:
        value: Any = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise AccessError(f"{path}: {error}") from error
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(v, str) for v in value.values()):
        raise AccessError(f"{path}: expected lines such as 'control: {DEFAULT_CONTROL}'")
    unknown = set(value) - {"control", "credentials"}
    if unknown:
        raise AccessError(f"{path}: unknown setting {sorted(unknown)[0]!r}; known: control, credentials")
    return value


def _usable(directory: Path) -> Path:
    for name in CREDENTIAL_FILES:
        try:
            (directory / name).open().close()
        except OSError as error:
            raise AccessError(
                f"{directory / name}: {error.strerror}; give --credentials or {CREDENTIALS_VARIABLE} "
                "(on the control host: <state-dir>/operator)"
            ) from error
    return directory
