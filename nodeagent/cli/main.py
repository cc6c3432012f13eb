"""``nodeagent``: verbs that act on this host (run, load, unload, wait, oci-hook, splice, reset, trace),
nouns that ask the running agent (status, flows, workloads)."""

from __future__ import annotations

import contextlib
import faulthandler
import logging
import os
import platform
import sys
from collections.abc import Callable
from importlib.metadata import version as distribution_version
from pathlib import Path
from typing import Any, NoReturn

import click
import uvloop

from control.wire.address import AddressError
from nodeagent.admin.server import AdminError
from nodeagent.capture.cgroups import CgroupError
from nodeagent.capture.controller import Capture
from nodeagent.capture.controller import unload as unload_capture
from nodeagent.cli import answers
from nodeagent.cli.hold import RefusedError, hold, question_of_container, question_of_this_process
from nodeagent.cli.resets import CannotResetError, reset_text, reset_verb, ways
from nodeagent.cli.show import FORMATS, explanation_text, flows_text, show, status_text, workloads_text
from nodeagent.client.join import JoinError
from nodeagent.client.statefile import StateDirectory, StateDirectoryError
from nodeagent.config import Config, ConfigError, load
from nodeagent.containers.facts import MAX_STATE_BYTES, StateError
from nodeagent.doctor.command import examine, state_of
from nodeagent.doctor.explain import UnknownNameError
from nodeagent.doctor.explain import explain as explain_connection
from nodeagent.doctor.finding import Level
from nodeagent.doctor.finding import as_text as findings_text
from nodeagent.doctor.finding import documents as findings_document
from nodeagent.limits.records import bounded_handler
from nodeagent.loader.errors import LoaderError
from nodeagent.local.client import LocalAgent, RefusedAnswerError
from nodeagent.local.questions import AgentQuestion
from nodeagent.local.server import LocalSocketError
from nodeagent.local.trust import UntrustedPathError
from nodeagent.main import Agent, capture_settings
from nodeagent.manager.ports import reserved_ports
from nodeagent.manager.seal import SealError, seal
from nodeagent.notify import ServiceManager

WAIT_SECONDS = 30.0
SETTLE_SECONDS = 2.0
"""For the doctor: how long workloads that start right now may take to be captured."""
LOG_FORMAT = "%(asctime)s %(levelname)s %(name)s: %(message)s"
QUIET_LOGGERS = ("httpx", "httpcore", "uvicorn.error", "asyncio")
"""Libraries whose INFO is noise to operators."""

START_ERRORS = (StateDirectoryError, JoinError, AdminError, LoaderError, CgroupError, LocalSocketError)

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


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
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
    logging.basicConfig(level=config.log_level.upper(), format=LOG_FORMAT, handlers=[bounded_handler()])
    for name in QUIET_LOGGERS:
        logging.getLogger(name).setLevel(max(logging.WARNING, logging.getLogger().level))
    faulthandler.enable(sys.__stderr__ or sys.stderr)  # the watchdog's SIGABRT shows in the log what the manager was at
    for note in config.notes:
        logging.getLogger("nodeagent").warning("%s", note)
    try:
        uvloop.run(_run(config))
        if unload_on_exit and config.capture:
            unload_capture(capture_settings(config))
    except START_ERRORS as error:
        fail(str(error))


async def _run(config: Config) -> None:
    service = ServiceManager.of(os.environ)
    await Agent(config, Capture.open if config.capture else None, service=service).run()


@main.command("load")
@config_option
@click.option(
    "--fail-closed", is_flag=True, help="Refuse what was in the mesh when an agent ran last, until one runs again."
)
def load_programs(file: Path | None, fail_closed: bool) -> None:
    """Load and attach the BPF programs, run nothing.

    It shows whether this kernel can do what is needed. No workload is captured until an agent runs.

    With --fail-closed (for a unit that runs before the network is up, deploy/systemd/nodemesh-seal.service) nothing
    gets past the mesh while a host starts, in whatever order: connections of all programs to services and workloads of
    the mesh are refused, and so is plaintext to workloads of this node, until an agent has said who is enrolled.
    """
    config = settings(file)
    try:
        capture = Capture.open(capture_settings(config))
        click.echo(f"loaded and pinned in {capture.pin_dir}")
        with contextlib.closing(capture):
            if fail_closed:
                _seal(config, capture)
    except (LoaderError, CgroupError, StateDirectoryError, SealError) as error:
        fail(str(error))


def _seal(config: Config, capture: Capture) -> None:
    with contextlib.closing(StateDirectory(config.state_dir)) as directory:
        sealed = seal(capture, directory, config.node, reserved_ports(config))
    click.echo(
        f"sealed: {sealed.destinations} mesh destinations are refused, and plaintext to {sealed.workloads} workloads"
    )
    for problem in sealed.problems:
        click.echo(f"nodeagent: {problem}", err=True)


@main.command()
@config_option
def unload(file: Path | None) -> None:
    """Remove all BPF programs, links and maps.

    Everything that agents of this instance ever pinned. Connections of workloads are not captured any more.
    """
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
    _print(settings(file), "status", output, status_text)


@main.command()
@config_option
@output_option
def flows(file: Path | None, output: str) -> None:
    """Live connections and tunnels."""
    _print(settings(file), "flows", output, flows_text)


@main.command()
@config_option
@output_option
def workloads(file: Path | None, output: str) -> None:
    """Workloads placed on this node, and the cgroups found for them."""
    _print(settings(file), "workloads", output, workloads_text)


@main.command()
@config_option
@click.option("--timeout", default=WAIT_SECONDS, show_default=True, help="Seconds; then exit status 1.")
@click.option("--uid", type=click.IntRange(min=0), help="The user that the program will run as, if not this one.")
def wait(file: Path | None, timeout: float, uid: int | None) -> None:
    """Wait until the calling process is captured.

    In the unit of a workload, 'ExecStartPre=+nodeagent wait' holds the program back until the agent knows its cgroup:
    what a workload connects to in its first moments cannot get around the mesh then.
    """
    _hold(settings(file), lambda _: question_of_this_process(uid), timeout)


@main.command("oci-hook")
@config_option
@click.option("--timeout", default=WAIT_SECONDS, show_default=True, help="Seconds; then the container is refused.")
@click.option("--optional", is_flag=True, help="Let containers go that no workload selects.")
def oci_hook(file: Path | None, timeout: float, optional: bool) -> None:
    """Hold a container back until it is captured.

    A hook of OCI runtimes: as 'createRuntime' (or 'prestart') it is given the container's state on its standard input,
    tells the agent of the container, and returns when its connections are captured: its program has not begun yet.
    Exit status 1, with which the runtime gives the container up, if nobody selects it or the agent does not answer.
    """
    _hold(
        settings(file), lambda config: question_of_container(config, sys.stdin.read(MAX_STATE_BYTES), optional), timeout
    )


def _hold(config: Config, find: Callable[[Config], AgentQuestion], seconds: float) -> None:
    try:
        hold(find(config), str(config.agent_socket), LocalAgent(config.agent_socket).ask, seconds)
    except (CgroupError, OSError, StateError, RefusedError) as error:
        fail(str(error))


@main.command()
@config_option
@click.argument("switch", type=click.Choice(["on", "off", "clear"]))
def splice(file: Path | None, switch: str) -> None:
    """Switch the kernel splice of this node on or off.

    Off: every live flow goes back to the relay within a second, none breaks. It stays off, over restarts too, until it
    is switched on. What the self-test, the configuration or the mesh forbids stays off.

    Clear: workloads that are kept out because a flow of theirs got stuck get another try ('nodeagent status' lists
    them).
    """
    config = settings(file)
    path = config.clear_switch if switch == "clear" else config.kill_switch
    try:
        if switch == "on":
            path.unlink(missing_ok=True)
        else:
            config.run_dir.mkdir(parents=True, exist_ok=True)
            path.touch()
    except OSError as error:
        fail(f"{path}: {error.strerror}; are you root?")
    click.echo(f"splice {switch}; 'nodeagent status' shows what is in force")


@main.command("reset")
@click.argument("workload", metavar="[NAMESPACE/]NAME")
@config_option
@click.option("--carried", is_flag=True, help="Those that the mesh carries, instead of those that go past it.")
@click.option("--all", "everything", is_flag=True, help="Both, and those to places outside the mesh.")
@click.option("--dry-run", is_flag=True, help="Reset nothing; say what would be.")
@output_option
def reset_connections(
    workload: str, file: Path | None, carried: bool, everything: bool, dry_run: bool, output: str
) -> None:
    """Reset old connections of a workload.

    Those that were open when it joined the mesh, and go past it, as a client or a server; with --carried, after it has
    left, those that the mesh carries. Whoever holds one gets ECONNABORTED, its peer a reset. The agent's own, the
    workload's to itself and health checks on probePorts are left alone. The label nodemesh.io/old-connections
    ('reset', or a duration to wait first) has the agent do it by itself. Exit status 1 if something could not be reset.
    """
    config = settings(file)
    try:
        told = reset_verb(config, workload, ways(carried, everything), lambda name: ask(config, name), dry_run=dry_run)
    except (CannotResetError, OSError) as error:
        fail(str(error))
    click.echo(show(told, output, reset_text))
    if told["trouble"]:
        sys.exit(1)


@main.command()
@config_option
@output_option
def doctor(file: Path | None, output: str) -> None:
    """Look for what is wrong with this host, and say what to do.

    Kernel, cgroups, bpffs, other programs on the hooks, ports, control, clock, certificates, and for each workload
    whether its traffic is captured. Changes nothing. Exit status 1 if something does not work.
    """
    config = settings(file)
    findings = examine(config, lambda document: answers.fetch(config, document), lambda: _settle(config))
    click.echo(show(findings_document(findings), output, findings_text))
    if any(finding.level is Level.BAD for finding in findings):
        sys.exit(1)


def _settle(config: Config) -> None:
    """Give what has just started the time to be captured; whatever is not by then is worth a finding."""
    with contextlib.suppress(OSError, ValueError, RefusedAnswerError, UntrustedPathError):
        LocalAgent(config.agent_socket).ask(AgentQuestion(myself=False, seconds=SETTLE_SECONDS))


@main.command()
@click.argument("source", metavar="SOURCE")
@click.argument("destination", metavar="DESTINATION[:PORT]")
@config_option
@output_option
def explain(source: str, destination: str, file: Path | None, output: str) -> None:
    """What would become of a connection, and which policy decides.

    SOURCE is a workload ([NAMESPACE/]NAME), or the address of somebody outside the mesh; DESTINATION a service or
    workload ([NAMESPACE/]NAME), a host name, or an address with a port. Exit status 1 if it would be refused.
    """
    config = settings(file)
    documents = {name: ask(config, name) for name in ("state", "workloads")}
    try:
        state = state_of(documents["state"])
        here = {item["uid"] for item in documents["workloads"] if item["cgroups"]}
        elsewhere = {item.uid for item in state.workloads() if item.node != config.node}
        told = explain_connection(state, source, destination, here | elsewhere).document()
    except (AddressError, UnknownNameError) as error:
        fail(str(error))
    except (KeyError, TypeError, ValueError) as error:
        fail(f"the agent that answers is of another version than this command; restart it ({error})")
    click.echo(show(told, output, explanation_text))
    if told["verdict"] == "refused":
        sys.exit(1)


@main.command()
@config_option
@click.option("--workload", metavar="[NAMESPACE/]NAME", help="Only sockets of this workload, and the agent's for it.")
@click.option("--port", type=click.IntRange(1, 65535), help="Only sockets with this port at either end, or asked for.")
@click.option("--seconds", type=click.FloatRange(min=0, min_open=True), help="Stop after so long.")
@click.option("--count", type=click.IntRange(min=1), help="Stop after so many events.")
@click.option("-o", "--output", type=click.Choice(("table", "json")), default="table", show_default=True)
def trace(
    file: Path | None, workload: str | None, port: int | None, seconds: float | None, count: int | None, output: str
) -> None:
    """What happens to connections, in the kernel, as it happens.

    For debugging: connects and what the mesh makes of them, state changes, retransmissions, resets, ends with bytes and
    duration. -o json is one object a line. It needs root, BCC (Debian's python3-bpfcc) and the headers of the running
    kernel, and says which of them is missing. Exit statuses: 3 not root, 4 no BCC, 5 no kernel headers, 6 no tracefs,
    7 refused by compiler or kernel, 8 the trace was cut short.
    """
    # what only this verb needs stays out of the agent
    from nodeagent.trace.command import Trace, TraceContext, Wishes  # noqa: PLC0415
    from nodeagent.trace.obstacles import CannotTraceError, ready_python  # noqa: PLC0415

    config = settings(file)
    around = TraceContext(
        workloads=lambda: answers.fetch(config, "workloads"),
        write=click.echo,
        note=lambda text: click.echo(f"nodeagent: {text}", err=True),
    )
    wishes = Wishes(workload=workload, port=port, seconds=seconds, count=count, as_json=output == "json")
    try:
        python = ready_python(os.geteuid(), platform.release(), os.environ)
        if workload is not None:
            ask(config, "workloads")
        Trace(python, config, wishes, around).run()
    except CannotTraceError as error:
        click.echo(f"nodeagent: {error}", err=True)
        sys.exit(error.status)
    except (LookupError, CgroupError, OSError, ValueError) as error:
        fail(str(error))


@main.command()
def version() -> None:
    """The version of nodemesh."""
    click.echo(distribution_version("nodemesh"))


def _print(config: Config, document: str, output: str, as_text: Callable[[Any], str]) -> None:
    answer = ask(config, document)
    try:
        text = show(answer, output, as_text)
    except (KeyError, TypeError, AttributeError, ValueError):  # after an upgrade: the file is new, the process is old
        fail("the agent that answers is of another version than this command; restart it, or look at '-o json'")
    click.echo(text)


def ask(config: Config, document: str) -> Any:
    """A document of the running agent; a clear message and exit status 1 if none answers."""
    try:
        return answers.ask(config, document)
    except answers.NoAgentError as error:
        fail(str(error))
