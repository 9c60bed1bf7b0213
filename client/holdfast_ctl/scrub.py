"""`clusterctl scrub`: has everything been read back from the disks, when, and what was broken?"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.shell import EXIT_FINE, EXIT_REFUSED, Output, size_text
from holdfast_ctl import documents, report
from holdfast_ctl.session import json_option, session_of

if TYPE_CHECKING:
    from holdfastpb.v1 import admin_pb2

POLL_S: Final = 0.5


@click.command()
@click.option("--now", is_flag=True, help="Have every node begin at once, and not dawdle.")
@click.option(
    "--wait", is_flag=True, help="Until that cycle has ended everywhere and all it found is healed."
)
@json_option
@click.pass_context
def scrub(context: click.Context, /, *, now: bool, wait: bool, as_json: bool) -> int:
    """What was read back from the disks, when, and what was broken. Exit 1 if anything is broken or overdue."""
    session = session_of(context, as_json=as_json)
    with session.admin() as admin:
        found = admin.scrub(now=now)
        if wait:
            found = _waited(session.output, found, admin.scrub)
    if session.output.as_json:
        session.output.document(documents.scrub(found))
    else:
        _say(session.output, found)
    sound = not found.unreachable and all(not node.waiting and not _overdue(node) for node in found.nodes)
    return EXIT_FINE if sound else EXIT_REFUSED


def _waited(
    output: Output, found: admin_pb2.ScrubReply, ask: Callable[[], admin_pb2.ScrubReply]
) -> admin_pb2.ScrubReply:
    """Until every node that answered has ended the cycle it is in now, or one begun later."""
    goal = {node.node: node.cycle for node in found.nodes}
    with _reading(output) as show:
        while True:
            show(found)
            answered = {node.node: node for node in found.nodes}
            there = [answered[name] for name in goal if name in answered]
            if len(there) == len(goal) and all(
                node.completed >= goal[node.node] and not node.waiting for node in there
            ):
                return found
            time.sleep(POLL_S)
            found = ask()


@contextmanager
def _reading(output: Output) -> Generator[Callable[[admin_pb2.ScrubReply], None]]:
    """A bar on a terminal, nothing in a pipe."""
    if not output.bars:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(binary_units=True))
    with Progress(*columns, console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("reading back", total=1)

        def show(now: admin_pb2.ScrubReply) -> None:
            waiting = sum(node.found - node.healed for node in now.nodes)
            left_s = max((node.eta_s for node in now.nodes), default=0.0)
            what = f"reading back, about {report.time_text(left_s)} left" if left_s else "reading back"
            bars.update(
                task,
                description=f"healing {waiting} records" if waiting else what,
                completed=sum(node.bytes_done for node in now.nodes),
                total=sum(node.bytes_total for node in now.nodes) or 1,
            )

        yield show


def _overdue(node: admin_pb2.NodeScrub) -> bool:
    return node.unproven_s > node.promised_s


def _say(output: Output, found: admin_pb2.ScrubReply) -> None:
    console = output.console()
    table = report.table_of(
        "node", "this cycle", "oldest not read back since", "promised", "found", "healed", "garbage"
    )
    for node in found.nodes:
        cycle = f"{size_text(node.bytes_done)} of {size_text(node.bytes_total)}"
        if node.cycle == node.completed:
            cycle = "waits for the next"
        age = (
            report.time_text(node.unproven_s)
            if node.completed
            else f"all, {report.time_text(node.unproven_s)}"
        )
        counts = [str(node.found), str(node.healed), str(node.garbage)]
        state = "down" if node.waiting or _overdue(node) else "up"
        report.row(table, [node.node, cycle, age, report.time_text(node.promised_s), *counts], state)
    console.print(table)
    for node in found.nodes:
        for line in node.waiting:
            console.print(f"[red]![/] {report.safe(f'{node.node}: {line}')}")
    if found.unreachable:
        console.print(f"[red]![/] did not answer: {report.safe(' '.join(found.unreachable))}")
