"""`clusterctl status`: one screen, whatever happens in a cluster of six nodes.

What may grow with the trouble is summed up or cut here; the other commands, which it names, tell all.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from holdfast.cli.shell import Output, size_text
from holdfast_ctl import report

if TYPE_CHECKING:
    from holdfastpb.v1 import admin_pb2

NAMES_MAX: Final = 6
"""Nodes named in a cell or a line; of more, the first, and how many others."""
LABEL_WIDTH: Final = 23


def status(output: Output, found: admin_pb2.StatusReply) -> None:
    console = output.console()
    health = "[bold green]healthy[/]" if found.healthy else "[bold red]not healthy[/]"
    simulated = f" · {len(found.nodes)} stores on one device (simulated)" if found.simulated_domains else ""
    console.print(f"cluster {found.cluster_id.hex()[:8]} · {health} · epoch {found.epoch}{simulated}")
    for label, text in (
        ("survives the loss of", f"{report.margin_text(found.least_margin)}   (least margin of any blob)"),
        ("partitions", f"{report.partitions_text(found)} · {_stored_text(found)}"),
        ("oldest unproven byte", _unproven_text(found.nodes)),
        ("voters", report.safe(" ".join(found.voters))),
    ):
        console.print(f"{label:{LABEL_WIDTH}}{text}")
    report.nodes(output, found, brief=True)
    _work(output, [worker for worker in found.workers if report.is_at_work(worker)])
    report.problems(output, [*_at_risk(found), *_overdue(found.nodes), *found.problems])


def _stored_text(found: admin_pb2.StatusReply) -> str:
    """A partition that nobody reports may hold more."""
    text = f"{found.blobs} blobs, {size_text(found.bytes)}"
    return f"at least {text}" if found.partitions_unreported else text


def _unproven_text(nodes: Sequence[admin_pb2.NodeStatus]) -> str:
    """The age of the oldest byte that was not read back since, of all nodes that tell."""
    told = [node for node in nodes if node.promised_s]
    if not told:
        return "not known"
    oldest = max(told, key=lambda node: node.unproven_s)
    age, promised = report.time_text(oldest.unproven_s), report.time_text(oldest.promised_s)
    silent = _names_text([node.name for node in nodes if not node.promised_s])
    return report.safe(
        f"{age}, at {oldest.name} (promised: {promised})" + (f"; not known of {silent}" if silent else "")
    )


def _at_risk(found: admin_pb2.StatusReply) -> list[str]:
    nothing_to_spare = any(entry.survives <= 0 for entry in found.least_margin.entries)
    if nothing_to_spare and (found.blobs or found.partitions_unreported):
        return ["the next loss may take blobs: `clusterctl risk list` names them"]
    return []


def _overdue(nodes: Sequence[admin_pb2.NodeStatus]) -> list[str]:
    late = _names_text([node.name for node in nodes if node.unproven_s > node.promised_s])
    return (
        [f"not read back within the time promised: {late}; `clusterctl scrub` says how far it is"]
        if late
        else []
    )


def _work(output: Output, found: Sequence[admin_pb2.WorkerStatus]) -> None:
    """A row for each kind of work that will end, whoever does it; `heal status` has a row for each worker, and why."""
    table = report.table_of("work", "at", "state", "done", "rate", "time left")
    for name in dict.fromkeys(worker.name for worker in found):
        same = [worker for worker in found if worker.name == name]
        if any(worker.done < worker.total or worker.eta_s for worker in same):
            report.row(table, [name, *_work_cells(same)], "")
    if table.row_count:
        output.console().print(table)


def _work_cells(same: Sequence[admin_pb2.WorkerStatus]) -> list[str]:
    """Time is left until the last is done; it is not known as long as one of them does not know."""
    done, total = sum(worker.done for worker in same), sum(worker.total for worker in same)
    rate = sum(worker.rate_bytes_s for worker in same)
    etas = [worker.eta_s for worker in same]
    return [
        _names_text([worker.node for worker in same]),
        " ".join(dict.fromkeys(worker.state for worker in same)),
        f"{done} of {total}" if total else "-",
        f"{size_text(int(rate))}/s" if rate else "-",
        report.time_text(max(etas)) if min(etas) >= 0 else "not known",
    ]


def _names_text(names: Sequence[str]) -> str:
    others = len(names) - NAMES_MAX
    return " ".join(names) if others <= 0 else f"{' '.join(names[:NAMES_MAX])} and {others} more"
