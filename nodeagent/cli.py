"""``nodeagent``: verbs that act on this host (run, load, unload), nouns that ask the running agent (status, flows,
workloads)."""

from __future__ import annotations

import json
import logging
import os
import platform
import sys
import urllib.error
import urllib.request
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop

from nodeagent.admin.server import AdminError
from nodeagent.capture.cgroups import CgroupError
from nodeagent.capture.controller import Capture
from nodeagent.capture.controller import unload as unload_capture
from nodeagent.client.join import JoinError
from nodeagent.client.statefile import StateDirectoryError
from nodeagent.config import Config, ConfigError, load
from nodeagent.loader.errors import LoaderError
from nodeagent.main import Agent, capture_settings
from nodeagent.show import FORMATS, flows_text, show, status_text, workloads_text

ANSWER_SECONDS = 10.0
MAX_ANSWER_BYTES = 256 * 1024 * 1024
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
QUIET_LOGGERS = ("httpx", "httpcore", "uvicorn.error", "asyncio")
"""Libraries whose INFO is noise to operators."""

START_ERRORS = (StateDirectoryError, JoinError, AdminError, LoaderError, CgroupError)

config_option = click.option(
    "--config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Settings (YAML); NODEMESH_* variables win.",
)
output_option = click.option("-o", "--output", type=click.Choice(FORMATS), default="table", show_default=True)


def fail(text: str) -> NoReturn:
    """One clear message and exit status 1."""
    click.echo(f"nodeagent: {text}", err=True)
    sys.exit(1)


def settings(file: Path | None) -> Config:
    """The configuration, or all that is wrong with it and exit status 1."""
    try:
        return load(os.environ, file, hostname=platform.node())
    except ConfigError as error:
        fail(str(error))


@click.group()
def main() -> None:
    """The agent of one node of the mesh."""


@main.command()
@config_option
@click.option(
    "--unload-on-exit", is_flag=True, help="Remove the BPF programs when stopping: workloads bypass the mesh then."
)
def run(file: Path | None, unload_on_exit: bool) -> None:
    """Run the agent until SIGTERM.

    The BPF programs stay in force when it stops: connections of enrolled workloads to the mesh are refused until an
    agent runs again, or until 'nodeagent unload'.
    """
    config = settings(file)
    logging.basicConfig(level=config.log_level.upper(), format=LOG_FORMAT, stream=sys.stderr)
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    for note in config.notes:
        logging.getLogger("nodeagent").warning("%s", note)
    try:
        uvloop.run(_run(config))
        if unload_on_exit and config.capture:
            unload_capture(capture_settings(config))
    except START_ERRORS as error:
        fail(str(error))


async def _run(config: Config) -> None:
    await Agent(config, Capture.open if config.capture else None).run()


@main.command("load")
@config_option
def load_programs(file: Path | None) -> None:
    """Load and attach the BPF programs without running the agent: before anything else starts, say."""
    try:
        capture = Capture.open(capture_settings(settings(file)))
    except (LoaderError, CgroupError) as error:
        fail(str(error))
    click.echo(f"loaded and pinned in {capture.pin_dir}")
    capture.close()


@main.command()
@config_option
def unload(file: Path | None) -> None:
    """Detach and remove everything that agents of this instance ever pinned."""
    try:
        removed = unload_capture(capture_settings(settings(file)))
    except (LoaderError, OSError) as error:
        fail(str(error))
    for path in removed:
        click.echo(f"removed {path}")
    if not removed:
        click.echo("nothing was loaded")


@main.command()
@config_option
@output_option
def status(file: Path | None, output: str) -> None:
    """How the agent of this node is."""
    click.echo(show(ask(settings(file), "status"), output, status_text))


@main.command()
@config_option
@output_option
def flows(file: Path | None, output: str) -> None:
    """Live connections and tunnels."""
    click.echo(show(ask(settings(file), "flows"), output, flows_text))


@main.command()
@config_option
@output_option
def workloads(file: Path | None, output: str) -> None:
    """Workloads placed on this node, and the cgroups found for them."""
    click.echo(show(ask(settings(file), "workloads"), output, workloads_text))


@main.command()
def version() -> None:
    """The version of nodemesh."""
    click.echo(distribution_version("nodemesh"))


def ask(config: Config, document: str) -> Any:
    """A document of the running agent; a clear message and exit status 1 if none answers."""
    address = f"127.0.0.1:{config.ports.admin}"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(f"http://{address}/debug/{document}", timeout=ANSWER_SECONDS) as response:
            return json.loads(response.read(MAX_ANSWER_BYTES))
    except urllib.error.HTTPError as error:
        error.close()
        fail(f"what listens on {address} is no agent of this version (HTTP {error.code}); see 'ports.admin'")
    except (OSError, ValueError) as error:
        fail(
            f"no agent answers on {address} ({getattr(error, 'reason', error)}); is it running? Start it with "
            "'nodeagent run' or 'systemctl start nodeagent'; its port is the setting ports.admin (NODEMESH_PORTS_ADMIN)"
        )
