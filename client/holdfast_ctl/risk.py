"""`clusterctl risk`: which blobs survive little, by name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.shell import EXIT_FINE, EXIT_REFUSED, Output, size_text
from holdfast.values import key_text
from holdfast_ctl import documents, report
from holdfast_ctl.session import json_option, session_of

if TYPE_CHECKING:
    from holdfastpb.v1 import admin_pb2

NOT_THERE: Final = -1
"""The least margin: of shards, of register copies or of the map's voters there are fewer than are needed."""

MARGIN_MAX: Final = 1000

ALL: Final = 3
"""What a margin is the least of: shards, register, voters."""


@click.group()
def risk() -> None:
    """What is nearest to being lost."""


@risk.command(name="list")
@click.option(
    "--margin",
    type=click.IntRange(NOT_THERE, MARGIN_MAX),
    default=0,
    show_default=True,
    metavar="N",
    help="Those that survive at most N losses of something their pool protects against; -1: too little is there now.",
)
@click.option("--pool", default="", metavar="P", help="Of one pool only.")
@json_option
@click.pass_context
def risk_list(context: click.Context, /, *, margin: int, pool: str, as_json: bool) -> int:
    """The blobs that one more loss of something their pool protects against would take, gravest first, counted from the
    shards that are really there. Exit 1 if there is any."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    last = admin_pb2.RiskReply()
    with session.admin() as admin, report.examining(session.output) as show:
        for last in admin.risk(margin, pool=pool):
            show(last.blobs, last.shards)
    if session.output.as_json:
        session.output.document({"margin": margin, "pool": pool or None, **documents.risk(last)})
    else:
        _say(session.output, last, margin)
    return EXIT_REFUSED if last.total else EXIT_FINE


def _say(output: Output, found: admin_pb2.RiskReply, margin: int) -> None:
    console = output.console()
    console.print(
        f"{found.blobs} blobs, {found.shards} shards found; {found.total} at margin {margin} or under"
    )
    if found.unreachable:
        console.print(
            f"[red]![/] did not answer, so their shards do not count: {report.safe(' '.join(found.unreachable))}"
        )
    if not found.total:
        console.print(
            f"survives the loss of   {report.margin_text(found.least_margin)}   (least margin of any blob)"
        )
        return
    table = report.table_of("blob", "version", "size", "code", "survives", "weakest")
    for blob in found.at_risk:
        name = f"{blob.bucket}/{key_text(blob.key)}"
        cells = [name, str(blob.version), size_text(blob.size), blob.code, report.losses_text(blob.margin)]
        report.row(table, [*cells, _weakest_text(blob)], "down")
    console.print(table)
    if found.total > len(found.at_risk):
        console.print(f"and {found.total - len(found.at_risk)} more")
    output.note("next: clusterctl explain BUCKET KEY for one of them; clusterctl heal status")


def _weakest_text(blob: admin_pb2.BlobAtRisk) -> str:
    """Of shards, register and voters; mostly it is all of them, for they are at the same nodes."""
    return "all" if len(blob.weakest) == ALL else " ".join(blob.weakest)
