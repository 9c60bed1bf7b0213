"""`clusterctl local`: real clusters of processes on this machine. What they are is the testing kit's business."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, TypedDict, cast

import click

from holdfast.cli.shell import EXIT_FINE, EXIT_REFUSED, Json, Output, Usage
from holdfast_ctl import documents, report
from holdfast_ctl.changes import tags_of
from holdfast_ctl.session import Session, confirm, json_option, session_of

if TYPE_CHECKING:
    from holdfast.testing import LocalCluster, NodeState

dir_option = click.option("--dir", "root", metavar="DIR", help="The cluster's directory; default .holdfast.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")
selectors_argument = click.argument("selectors", metavar="SEL...", nargs=-1, required=True)
SELECTORS = "SEL is a node's name or TAG=VALUE, for example n1 or san=b."


@click.group()
def local() -> None:
    """A real cluster of processes on this machine, for development and tests."""


@local.command()
@click.option("--nodes", type=int, help="How many nodes.  [default: 6]")
@click.option("--sans", type=int, help="Spread over how many SANs, in blocks.  [default: 3]")
@click.option("--racks", type=int, help="... and racks, in turn; 0: none.  [default: 0]")
@click.option("--code", help="The erasure code.  [default: rs:4+2]")
@click.option("--port-base", type=int, help="The first node's port; default the first free one from 7101 on.")
@dir_option
@json_option
@click.pass_context
def up(context: click.Context, /, *, root: str | None, as_json: bool, **shape: object) -> int:
    """Make the cluster if there is none, start what is stopped, wait until it is ready."""
    from holdfast.testing import LocalCluster

    session = session_of(context, as_json=as_json, root=root)
    began = time.monotonic()
    chosen = {name: value for name, value in shape.items() if value is not None}
    exists = LocalCluster(session.local_root, leashed=False).exists
    if exists:
        _same_shape(LocalCluster.at(session.local_root), chosen)
    cluster = _shaped(session, chosen).up()
    if session.output.as_json:
        session.output.document(status_document(cluster))
    else:
        took = time.monotonic() - began
        nodes = cluster.nodes()
        session.output.note(f"{len(nodes)} nodes are up after {took:.1f} s; their data is in {cluster.root}")
        session.output.line(f"export HOLDFAST_ENDPOINTS={cluster.endpoints}")
    return EXIT_FINE


@local.command()
@dir_option
@json_option
@click.pass_context
def status(context: click.Context, /, *, root: str | None, as_json: bool) -> int:
    """The processes: id, pid, address, tags, data directory, state. Exit 1 if one is stopped."""
    session = session_of(context, as_json=as_json, root=root)
    cluster = session.local()
    nodes = cluster.nodes()
    if session.output.as_json:
        session.output.document(status_document(cluster))
    else:
        report.local_nodes(session.output, nodes)
    return EXIT_FINE if all(node.state == "running" for node in nodes) else EXIT_REFUSED


@local.command()
@dir_option
@json_option
@click.pass_context
def down(context: click.Context, /, *, root: str | None, as_json: bool) -> None:
    """Stop all nodes in order: they drain, then end. Their data stays."""
    session = session_of(context, as_json=as_json, root=root)
    _say(session.output, "stopped", session.local().stop())


@local.command()
@dir_option
@yes_option
@json_option
@click.pass_context
def wipe(context: click.Context, /, *, root: str | None, yes: bool, as_json: bool) -> None:
    """Stop the cluster and delete it with all its data."""
    session = session_of(context, as_json=as_json, root=root)
    cluster = session.local()
    confirm(session.output, str(session.local_root), yes=yes, verb="delete the cluster and all data in")
    cluster.wipe()
    _say(session.output, "wiped", (str(cluster.root),))


@local.command(epilog=SELECTORS)
@selectors_argument
@dir_option
@json_option
@click.pass_context
def kill(context: click.Context, /, *, selectors: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """SIGKILL nodes. Their data stays; `local start` brings them back."""
    session = session_of(context, as_json=as_json, root=root)
    _say(session.output, "killed", session.local().kill(*selectors))


@local.command(epilog=SELECTORS)
@selectors_argument
@dir_option
@yes_option
@json_option
@click.pass_context
def lose(
    context: click.Context, /, *, selectors: tuple[str, ...], root: str | None, yes: bool, as_json: bool
) -> None:
    """SIGKILL nodes and wipe their data: the machines are gone, disks and all."""
    session = session_of(context, as_json=as_json, root=root)
    cluster = session.local()
    cluster.layout.select(selectors)
    confirm(session.output, ",".join(selectors), yes=yes, verb="kill and wipe")
    names = cluster.lose(*selectors)
    _say(session.output, "lost", names)
    session.output.note(f"next: {_after_a_loss(session.root, selectors)}")


@local.command(epilog=SELECTORS)
@click.argument("selectors", metavar="[SEL]...", nargs=-1)
@dir_option
@json_option
@click.pass_context
def start(context: click.Context, /, *, selectors: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """Start what is stopped, all or SEL. A node that was lost comes up with a new, empty store."""
    session = session_of(context, as_json=as_json, root=root)
    _say(session.output, "started", session.local().start(*selectors))


@local.command()
@click.option(
    "--tag", "pairs", multiple=True, metavar="TAG=VALUE", help="Its tags beside its host, as san=d."
)
@dir_option
@json_option
@click.pass_context
def add(context: click.Context, /, *, pairs: tuple[str, ...], root: str | None, as_json: bool) -> None:
    """Start one more node and let it take its share. `clusterctl plan --wait` waits for that."""
    session = session_of(context, as_json=as_json, root=root)
    plan = session.local().add(**tags_of(pairs))
    if session.output.as_json:
        session.output.document(documents.plan(plan))
    else:
        report.plan(session.output, plan)


@local.command()
@click.argument("name")
@dir_option
@yes_option
@json_option
@click.pass_context
def remove(context: click.Context, /, *, name: str, root: str | None, yes: bool, as_json: bool) -> None:
    """Take a drained node out, end it and delete its data."""
    session = session_of(context, as_json=as_json, root=root)
    confirm(session.output, name, yes=yes, verb="remove and delete")
    session.local().remove(name)
    _say(session.output, "removed", (name,))


@local.command()
@click.argument("node")
@click.option(
    "-n",
    "--lines",
    type=click.IntRange(min=1),
    default=40,
    show_default=True,
    help="How many of the last lines.",
)
@dir_option
@click.pass_context
def logs(context: click.Context, /, *, node: str, lines: int, root: str | None) -> None:
    """The last lines a node logged."""
    session = session_of(context, as_json=False, root=root)
    cluster = session.local()
    [chosen] = cluster.layout.select([node])[:1]
    if "=" in node:
        raise Usage("one node's log at a time: give its name")
    path = cluster.log_path(chosen.name)
    for line in path.read_text(errors="replace").splitlines()[-lines:] if path.exists() else ():
        session.output.line(line)


def status_document(cluster: LocalCluster) -> Json:
    """`clusterctl local status --json`."""
    return {
        "dir": str(cluster.root),
        "config": str(cluster.config_path),
        "endpoints": cluster.endpoints,
        "nodes": [node_document(cluster, node) for node in cluster.nodes()],
    }


def node_document(cluster: LocalCluster, state: NodeState) -> Json:
    return {
        "id": state.node.name,
        "pid": state.pid or None,
        "address": state.node.address,
        "tags": dict(state.node.tags),
        "data_dir": str(state.node.data_dir),
        "log": str(cluster.log_path(state.node.name)),
        "state": state.state,
    }


def _after_a_loss(root: str | None, selectors: Sequence[str]) -> str:
    """The commands that bring back what was lost, to be pasted as they are."""
    program = shlex.join(["clusterctl", *(["--dir", root] if root else [])])
    replaced = [f"{program} node replace --lost {shlex.quote(selector)}" for selector in selectors]
    return " && ".join([f"{program} local start {shlex.join(selectors)}", *replaced])


class _Numbers(TypedDict, total=False):
    nodes: int
    sans: int
    racks: int
    port_base: int


def _shaped(session: Session, chosen: dict[str, object]) -> LocalCluster:
    from holdfast.testing import LocalCluster

    code = str(chosen.get("code", "rs:4+2"))
    numbers = cast("_Numbers", {name: value for name, value in chosen.items() if name != "code"})
    return LocalCluster(session.local_root, code=code, leashed=False, **numbers)


def _same_shape(cluster: LocalCluster, chosen: dict[str, object]) -> None:
    """Options of an existing cluster must say what it is; they cannot change it."""
    layout = cluster.layout
    actual = {
        "nodes": len(layout.nodes),
        "sans": len({node.tags["san"] for node in layout.nodes if "san" in node.tags}),
        "racks": len({node.tags["rack"] for node in layout.nodes if "rack" in node.tags}),
        "code": layout.pools[0].code,
        "port_base": layout.nodes[0].port,
    }
    different = [
        f"{name} is {actual[name]}, not {value}" for name, value in chosen.items() if actual[name] != value
    ]
    if different:
        raise Usage(
            f"there is a cluster in {cluster.root}, and its {'; '.join(different)}; "
            "give another --dir, or `clusterctl local wipe` it first"
        )


def _say(output: Output, what: str, names: tuple[str, ...]) -> None:
    if output.as_json:
        sys.stdout.flush()
        output.document({what: list(names)})
    else:
        output.line(f"{what}: {' '.join(names) or 'nothing'}")
