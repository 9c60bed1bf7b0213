"""`clusterctl`: what an operator types. It parses and dispatches; the commands are in `commands` and `local`."""

from __future__ import annotations

from collections.abc import Sequence

import click

from holdfast.cli.shell import Output, run, waiting_time
from holdfast_ctl.commands import CLUSTER_COMMANDS
from holdfast_ctl.local import local
from holdfast_ctl.session import Session, json_option


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 fine, 1 refused or unhealthy, 2 bad usage, 3 unreachable."""
    return run(cli, arguments, program="clusterctl")


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--endpoints", metavar="HOST:PORT,...", help="Nodes to ask; default HOLDFAST_ENDPOINTS, else --dir."
)
@click.option("--dir", "root", metavar="DIR", help="A local cluster's directory; default .holdfast.")
@click.option(
    "--timeout",
    type=waiting_time,
    metavar="SECONDS",
    default=20.0,
    show_default=True,
    help="To wait for one answer.",
)
@json_option
@click.pass_context
def cli(
    context: click.Context, /, *, endpoints: str | None, root: str | None, timeout: float, as_json: bool
) -> None:
    """Operate a Holdfast cluster: is it safe, what would be lost, what is being done about it."""
    context.obj = Session(Output(as_json=as_json), endpoints, root, timeout)


cli.add_command(local)
for command in CLUSTER_COMMANDS:
    cli.add_command(command)
