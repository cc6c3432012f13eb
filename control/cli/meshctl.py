"""``meshctl``: its options, its verbs, and its errors as single lines."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping, Sequence

import click

from control.cli import access, describe, operations, resources
from control.cli.client import Client, ControlError
from control.cli.documents import DocumentError

EXPECTED_ERRORS = (access.AccessError, ControlError, DocumentError)
ENVIRONMENT = "nodemesh.environment"


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--control", default=None, metavar="URL", help=f"Where control is. [{access.CONTROL_VARIABLE}]")
@click.option(
    "--credentials",
    default=None,
    metavar="DIR",
    help=f"cert.pem, key.pem and ca.pem of an operator. [{access.CREDENTIALS_VARIABLE}]",
)
@click.pass_context
def meshctl(context: click.Context, control: str | None, credentials: str | None) -> None:
    """Operate a nodemesh: resources, join tokens, status.

    Settings also come from ~/.config/nodemesh/meshctl.yaml (control: URL, credentials: DIR).
    """
    strings = context.meta.get(ENVIRONMENT, os.environ)
    client = Client(lambda: access.load(control, credentials, strings))
    context.obj = client
    context.call_on_close(client.close)


for _command in (
    resources.apply,
    resources.get,
    resources.delete,
    describe.describe,
    operations.token,
    operations.status,
):
    meshctl.add_command(_command)


def main(arguments: Sequence[str] | None = None, environment: Mapping[str, str] | None = None) -> None:
    """Run the console script; both parameters are for tests."""
    options = {} if environment is None else {ENVIRONMENT: environment}
    try:
        with meshctl.make_context("meshctl", list(sys.argv[1:] if arguments is None else arguments)) as context:
            context.meta.update(options)
            meshctl.invoke(context)
    except EXPECTED_ERRORS as error:
        for line in str(error).splitlines():
            click.echo(f"meshctl: {line}", err=True)
        sys.exit(1)
    except click.exceptions.Exit as stop:
        sys.exit(stop.exit_code)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output closed it. Without /dev/null the interpreter's own flush would fail once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
