"""``control init`` and ``control run``: the composition root."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import logging
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from control.ca.keys import StateError, private_directory
from control.config import (
    DEFAULT_CLUSTER,
    DEFAULT_LISTEN,
    DEFAULT_STATE_DIR,
    Config,
    ConfigError,
    Settings,
    load,
)
from control.server import Control, StartError, initialise, listen, open_store
from control.store.base import StoreError
from control.wire.address import SocketAddress
from control.wire.ids import DEFAULT_DOMAIN, DEFAULT_TRUST_DOMAIN, SpiffeIdError

EXPECTED_ERRORS = (ConfigError, StateError, StartError, StoreError, SpiffeIdError)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """The control service of a nodemesh: resources, discovery and certificates."""


def _common(command: Callable[..., None]) -> Callable[..., None]:
    """The options of both verbs, and one line for each expected error."""

    @click.option(
        "--state-dir",
        default=DEFAULT_STATE_DIR,
        show_default=True,
        envvar="NODEMESH_CONTROL_STATE_DIR",
        help="Database, CA and credentials.",
    )
    @click.option(
        "--trust-domain",
        default=DEFAULT_TRUST_DOMAIN,
        show_default=True,
        envvar="NODEMESH_TRUST_DOMAIN",
        help="Fixed when the state directory is first used.",
    )
    @functools.wraps(command)
    def run(*arguments: Any, **options: Any) -> None:
        try:
            command(*arguments, **options)
        except EXPECTED_ERRORS as error:
            for line in str(error).splitlines():
                click.echo(f"control: {line}", err=True)
            sys.exit(1)
        except OSError as error:
            click.echo(f"control: {error.filename or 'the system'}: {error.strerror or error}", err=True)
            sys.exit(1)

    return run


@main.command()
@_common
def init(state_dir: str, trust_domain: str) -> None:
    """Make the CA and an operator's credentials. What is there already is kept."""
    config = load(Settings(state_dir=state_dir, trust_domain=trust_domain))
    with _lock(config.state_dir, "init.lock", wait=True):
        keys, credentials = initialise(config)
    click.echo(f"trust domain  {keys.trust_domain}")
    click.echo(f"root          sha256 {keys.fingerprint}")
    click.echo(f"credentials   {credentials}")


@main.command()
@_common
@click.option(
    "--listen",
    "listen_text",
    default=DEFAULT_LISTEN,
    show_default=True,
    envvar="NODEMESH_CONTROL_LISTEN",
    help="ADDRESS:PORT; [::] takes IPv4 as well.",
)
@click.option(
    "--advertise",
    multiple=True,
    envvar="NODEMESH_CONTROL_ADVERTISE",
    metavar="HOST|IP",
    help="A name or address by which agents reach this control; may be repeated. Default: the host's name.",
)
@click.option(
    "--cluster",
    default=DEFAULT_CLUSTER,
    show_default=True,
    envvar="NODEMESH_CLUSTER",
    help="The cluster that metrics and logs name.",
)
@click.option(
    "--domain",
    default=DEFAULT_DOMAIN,
    show_default=True,
    envvar="NODEMESH_DOMAIN",
    help="The DNS suffix of services: <service>.<namespace>.DOMAIN.",
)
@click.option(
    "--svid-lifetime",
    default="24h",
    show_default=True,
    envvar="NODEMESH_SVID_LIFETIME",
    help="Of workload certificates, such as 90s, 15m, 24h.",
)
@click.option(
    "--node-lifetime", default="24h", show_default=True, envvar="NODEMESH_NODE_LIFETIME", help="Of node certificates."
)
def run(listen_text: str, **options: Any) -> None:
    """Serve agents and operators until SIGTERM or SIGINT."""
    config = load(Settings(listen=listen_text, **options))
    logging.basicConfig(
        stream=sys.stderr, level=logging.WARNING, format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    with _lock(config.state_dir, "init.lock", wait=True):
        keys, credentials = initialise(config)
    with _lock(config.state_dir, "run.lock", wait=False):
        sock = listen(config.listen)
        store = open_store(config)
        port = sock.getsockname()[1]
        try:
            control = Control(config, keys, store)
            asyncio.run(control.run(sock, lambda: _print_ready(config, port, credentials)))
        finally:
            store.close()
            sock.close()


def _print_ready(config: Config, port: int, credentials: Path) -> None:
    where = SocketAddress(config.listen.ip, port)
    click.echo(
        f"control: ready on https://{where}, trust domain {config.trust_domain}, cluster {config.cluster}, "
        f"credentials in {credentials}"
    )
    sys.stdout.flush()


@contextmanager
def _lock(state_dir: Path, name: str, *, wait: bool) -> Iterator[None]:
    """Hold a lock file of the state directory; StartError if another process has it and we may not wait."""
    try:
        private_directory(state_dir)
        descriptor = os.open(state_dir / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise StateError(
            f"{state_dir}: {error.strerror}; run as the owner of the state directory, "
            "or choose another with --state-dir"
        ) from error
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise StartError(
                f"{state_dir} is in use by another control; stop it first, or choose another --state-dir"
            ) from None
        yield
    finally:
        os.close(descriptor)


if __name__ == "__main__":
    main()
