"""`clusterctl node` and `clusterctl plan`: nodes come, go and are replaced. Each change is a plan first."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from holdfast.cli.shell import EXIT_FINE, EXIT_REFUSED, Usage
from holdfast_ctl import documents, report
from holdfast_ctl.session import Session, confirm, json_option, session_of

if TYPE_CHECKING:
    from holdfastpb.v1 import admin_pb2

POLL_S: Final = 0.5
COUNT_MAX: Final = 2**31 - 1

plan_option = click.option("--plan", "only_plan", is_flag=True, help="Only say what it would do.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.group()
def node() -> None:
    """Changes to nodes: add, drain, remove, replace."""


@node.command(name="add")
@click.argument("name")
@click.option("--config", type=click.Path(path_type=Path), help="The cluster's file that describes the node.")
@click.option("--address", help="Where it listens, instead of what the file says.")
@click.option("--tag", "tags", multiple=True, metavar="TAG=VALUE", help="With --address: its tags.")
@click.option(
    "--weight",
    type=click.IntRange(0, COUNT_MAX),
    default=1,
    show_default=True,
    help="With --address: its share beside the others'.",
)
@plan_option
@yes_option
@json_option
@click.pass_context
def node_add(
    context: click.Context, /, *, name: str, only_plan: bool, yes: bool, as_json: bool, **described: object
) -> int:
    """Let a node that runs with a new, empty store take its share. A node that is draining stays."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    asked = admin_pb2.ChangeRequest(add=_described(session, name, described))
    return _change(session, asked, name, only_plan=only_plan, yes=yes)


@node.command(name="drain")
@click.argument("selector", metavar="SEL")
@plan_option
@yes_option
@json_option
@click.pass_context
def node_drain(context: click.Context, /, *, selector: str, only_plan: bool, yes: bool, as_json: bool) -> int:
    """Move everything that is at SEL to the other nodes. SEL need not be up."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    asked = admin_pb2.ChangeRequest(drain=selector)
    return _change(session, asked, selector, only_plan=only_plan, yes=yes)


@node.command(name="remove")
@click.argument("selector", metavar="SEL")
@yes_option
@json_option
@click.pass_context
def node_remove(context: click.Context, /, *, selector: str, yes: bool, as_json: bool) -> int:
    """Take drained nodes out of the cluster. Refused while anything at them is still needed."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    asked = admin_pb2.ChangeRequest(remove=selector)
    return _change(session, asked, selector, only_plan=False, yes=yes)


@node.command(name="replace")
@click.option(
    "--lost", "selector", required=True, metavar="SEL", help="A node or TAG=VALUE whose stores are gone."
)
@yes_option
@json_option
@click.pass_context
def node_replace(context: click.Context, /, *, selector: str, yes: bool, as_json: bool) -> None:
    """Declare stores lost for good; the new, empty ones that run under their names take their places and are healed.
    A store declared lost never votes again, also if it comes back."""
    session = session_of(context, as_json=as_json)
    with session.admin() as admin:
        confirm(session.output, selector, yes=yes, verb="declare lost for good the stores of")
        reply = admin.replace_lost(selector)
    if session.output.as_json:
        session.output.document(
            {"replaced": list(reply.nodes), "epoch": reply.epoch, "warnings": list(reply.warnings)}
        )
        return
    for warning in reply.warnings:
        session.output.note(f"warning: {warning}")
    session.output.line(f"replaced: {' '.join(reply.nodes) or 'nothing'} (epoch {reply.epoch})")
    session.output.note("next: clusterctl heal status")


@click.command()
@click.argument("name")
@click.option("--code", required=True, help="The erasure code, for example rs:4+2.")
@click.option(
    "--partitions",
    type=click.IntRange(0, COUNT_MAX),
    default=0,
    help="A power of two; 0: as many as the nodes ask for.",
)
@click.option(
    "--protect", "tags", multiple=True, metavar="TAG", help="Protected tags; default those on every node."
)
@click.option("--ack-floor", default="", help="any-node or any-domain: what an ack must at least survive.")
@json_option
@click.pass_context
def create(context: click.Context, /, *, name: str, as_json: bool, **described: object) -> int:
    """Make one more pool, with a code of its own. Buckets are created in it by name."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    pool = admin_pb2.SeedPool(
        name=name,
        code=str(described["code"]),
        partitions=cast("int", described["partitions"]),
        protected_tags=cast("tuple[str, ...]", described["tags"]),
        ack_floor=str(described["ack_floor"]),
    )
    with session.admin() as admin:
        found = admin.change(admin_pb2.ChangeRequest(create_pool=pool, apply=True))
    if session.output.as_json:
        session.output.document(documents.plan(found))
    else:
        said = f"is made, epoch {found.epoch}" if found.applied else "is there already"
        session.output.line(f"pool {name} {said}")
    return EXIT_FINE


@click.command(name="code")
@click.argument("name")
@click.argument("code")
@plan_option
@yes_option
@json_option
@click.pass_context
def recode(
    context: click.Context, /, *, name: str, code: str, only_plan: bool, yes: bool, as_json: bool
) -> int:
    """Bring everything in pool NAME into CODE, while it is read and written: new blobs at once, those that are there
    one by one. No other change begins until that is done; `clusterctl plan --cancel` brings all of it back."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    asked = admin_pb2.ChangeRequest(recode=admin_pb2.RecodePool(pool=name, code=code))
    return _change(session, asked, f"pool {name} to {code}", only_plan=only_plan, yes=yes)


@click.command()
@click.option("--cancel", is_flag=True, help="Undo the last change: what has moved goes back.")
@click.option("--wait", is_flag=True, help="Until it is done and every shard is where it belongs.")
@yes_option
@json_option
@click.pass_context
def plan(context: click.Context, /, *, cancel: bool, wait: bool, yes: bool, as_json: bool) -> int:
    """How far the last change of nodes is. Exit 1 while it is under way."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    if cancel:
        asked = admin_pb2.ChangeRequest(cancel=True)
        return _change(session, asked, "the last change", only_plan=False, yes=yes)
    with session.admin() as admin:
        found = admin.plan()
        if wait:
            found = _waited(session, found, admin.plan)
    if session.output.as_json:
        session.output.document(documents.plan(found))
    else:
        report.progress(session.output, found)
    return EXIT_FINE if found.settled else EXIT_REFUSED


def _waited(session: Session, found: admin_pb2.PlanReply, ask: report.Ask) -> admin_pb2.PlanReply:
    """Ask until nothing moves any more; on a terminal, with a bar."""
    with report.moving(session.output, found) as bar:
        while not found.settled:
            time.sleep(POLL_S)
            found = ask()
            bar(found)
    return found


def _change(
    session: Session, asked: admin_pb2.ChangeRequest, what: str, *, only_plan: bool, yes: bool
) -> int:
    """Say what it would do, ask, do it."""
    with session.admin() as admin:
        found = admin.change(asked)
        nothing = found.epoch == 0 or (not found.pools and found.kind != "remove")
        if not only_plan and not nothing:
            if not yes:
                report.plan(session.output, found)
            confirm(session.output, what, yes=yes, verb=f"{found.kind}:")
            asked.apply = True
            found = admin.change(asked)
    if session.output.as_json:
        session.output.document(documents.plan(found))
    else:
        report.plan(session.output, found)
    return EXIT_FINE


def _described(session: Session, name: str, options: dict[str, object]) -> admin_pb2.SeedNode:
    """The node as the options say, else as the cluster's file does."""
    from holdfastpb.v1 import admin_pb2

    address = options["address"]
    if address is None:
        return _from_file(session, name, cast("Path | None", options["config"]))
    tags = tags_of(cast("tuple[str, ...]", options["tags"]))
    return admin_pb2.SeedNode(
        name=name, address=str(address), tags=tags, weight=cast("int", options["weight"])
    )


def _from_file(session: Session, name: str, config: Path | None) -> admin_pb2.SeedNode:
    from holdfast.testing.layout import CONFIG_NAME, read
    from holdfast.testing.local import seed_of

    path = config or session.local_root / CONFIG_NAME
    if config is None and not path.exists():
        raise Usage("say where the node is: --config FILE or --address HOST:PORT")
    for described in seed_of(read(path)).nodes:
        if described.name == name:
            return described
    raise Usage(f"{path} describes no node {name!r}: add it there, or give --address")


def tags_of(pairs: tuple[str, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for pair in pairs:
        tag, equals, value = pair.partition("=")
        if not (tag and equals and value):
            raise Usage(f"{pair!r} is not TAG=VALUE")
        found[tag] = value
    return found
