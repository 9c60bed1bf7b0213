"""What `clusterctl` draws for people. It decides how facts look and gathers none.

Everything that others wrote (names, tags, problems) is escaped before it is printed.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from holdfast.cli.shell import Output, size_text
from holdfast.values import key_text, printable

if TYPE_CHECKING:
    from rich.table import Table

    from holdfast.testing import NodeState
    from holdfast.values import BucketInfo
    from holdfastpb.v1 import admin_pb2, blob_pb2

STYLES = {
    "up": "green",
    "running": "green",
    "down": "red",
    "stopped": "red",
    "replaced": "yellow",
    "suspect": "red",
    "lost": "red",
    "draining": "yellow",
    "drained": "yellow",
}
ROWS_MAX = 1000
"""Of what a proof finds, for people. Nodes keep what they name to as much by themselves."""
SHORT = "nothing: too little is there now"
"""Of shards, of register copies or of the map's voters."""


def local_nodes(output: Output, states: Sequence[NodeState]) -> None:
    table = table_of("node", "pid", "address", "tags", "state", "data")
    for state in states:
        cells = [state.node.name, str(state.pid or "-"), state.node.address, tags_text(state.node.tags)]
        row(table, [*cells, state.state, str(state.node.data_dir)], state.state)
    output.console().print(table)


def nodes(output: Output, message: admin_pb2.StatusReply, *, brief: bool = False) -> None:
    """By domain: nodes that share their last protected tag stand together. `brief`: without what other lines tell."""
    columns = ["node", "tags", "state", "votes", "shards", "used", "up for"]
    table = table_of(*columns, *([] if brief else ["address", "store"]))
    for node in sorted(message.nodes, key=lambda node: (_domain(node), node.name)):
        why = f": {node.not_voting_reason}" if node.not_voting_reason and not brief else ""
        votes = "yes" if node.voting else f"no{why}"
        if node.learning_partitions:
            votes = f"{node.learning_partitions} partitions to learn"
        cells = [node.name, tags_text(node.tags), node.state, votes, node.shards]
        cells += [_used(node), time_text(node.uptime_s) if node.uptime_s else "-"]
        row(table, cells if brief else [*cells, node.address, node.store.hex()[:8]], node.state)
    output.console().print(table)


def pools(output: Output, message: admin_pb2.StatusReply) -> None:
    table = table_of(
        "pool", "code", "partitions", "protects", "ack floor", "survives by design", "blobs", "bytes"
    )
    for pool in message.pools:
        cells = [pool.name, pool.code, str(pool.partitions), " ".join(pool.protected_tags), pool.ack_floor]
        cells += [margin_text(pool.designed_margin), str(pool.blobs), size_text(pool.bytes)]
        row(table, cells, "")
    output.console().print(table)


def buckets(output: Output, found: Iterable[BucketInfo], *, now_s: float) -> None:
    table = table_of("bucket", "pool", "blobs", "bytes", "quota", "deletions can be undone for", "made", "")
    for info in found:
        usage = info.usage
        more = "" if usage is None or usage.whole else " or more"
        held = ["?", "?"] if usage is None else [f"{usage.blobs}{more}", f"{size_text(usage.bytes)}{more}"]
        quota = size_text(info.quota) if info.quota else "-"
        kept = time_text(info.undo_s) if info.undo_s else "not at all"
        made = f"{time_text(max(0.0, now_s - info.created_ms / 1000))} ago"
        closing = "is being deleted" if info.closing else ""
        row(table, [info.name, info.pool, *held, quota, kept, made, closing], "")
    output.console().print(table)


def bucket_text(info: BucketInfo) -> str:
    kept = f"can be brought back for {time_text(info.undo_s)}" if info.undo_s else "is gone"
    quota = (
        f"its blobs may have {size_text(info.quota)}"
        if info.quota
        else "its blobs may have any size together"
    )
    return f"{info.name}: what is overwritten or deleted {kept}; {quota}"


def workers(output: Output, found: Iterable[admin_pb2.WorkerStatus]) -> None:
    table = table_of("node", "work", "state", "done", "rate", "time left", "")
    for worker in found:
        done = f"{worker.done} of {worker.total}" if worker.total else str(worker.done)
        rate = f"{size_text(int(worker.rate_bytes_s))}/s" if worker.rate_bytes_s else "-"
        left = time_text(worker.eta_s) if worker.eta_s >= 0 else "not known"
        row(table, [worker.node, worker.name, worker.state, done, rate, left, worker.detail], "")
    output.console().print(table)


def heal(output: Output, message: admin_pb2.StatusReply) -> None:
    console = output.console()
    if message.healthy:
        console.print("[green]nothing to heal[/]: every blob is at full margin and every store proven")
    else:
        console.print(f"partitions   {partitions_text(message)}")
        console.print(f"exceptions   {message.exceptions} blobs with a shard away from its home")
        console.print(f"survives     {margin_text(message.least_margin)}   (least margin of any blob)")
    made = sum(worker.bytes_done for worker in message.workers if worker.bytes_read)
    if made:
        read = sum(worker.bytes_read for worker in message.workers)
        console.print(
            f"made         {size_text(made)} of shards from {size_text(read)} read, since the nodes came up"
        )
    found = [worker for worker in message.workers if is_at_work(worker)]
    if found:
        workers(output, found)
    problems(output, message.problems)


def is_at_work(worker: admin_pb2.WorkerStatus) -> bool:
    return worker.state != "idle"


def problems(output: Output, lines: Sequence[str]) -> None:
    """Each with its mark, and indented where it goes on."""
    from rich.table import Table

    table = Table.grid(padding=(0, 1))
    for line in lines:
        table.add_row("[red]![/]", safe(line))
    if lines:
        output.console().print(table)


def quarantine(output: Output, message: admin_pb2.QuarantineListReply) -> None:
    """What heal has given up for now, gravest first."""
    console = output.console()
    if message.unreachable:
        console.print(f"[red]![/] did not answer: {safe(' '.join(message.unreachable))}")
    if not message.blobs:
        console.print("nothing is in quarantine")
        return
    table = table_of("blob", "losses survived", "tries", "steward", "why")
    for blob in message.blobs:
        survives = f"any {blob.margin}" if blob.margin >= 0 else "cannot be read"
        name = f"{blob.bucket}/{key_text(blob.key)}"
        row(table, [name, survives, str(blob.tries), blob.node, blob.why], "")
    console.print(table)
    if message.total > len(message.blobs):
        console.print(f"and {message.total - len(message.blobs)} more")


def explanation(output: Output, bucket: str, message: admin_pb2.ExplainReply) -> None:
    console = output.console()
    name = safe(f"{bucket}/{key_text(message.info.key)}")
    console.print(
        f"{name} · version {message.info.version} · {size_text(message.info.size)} · {message.info.code} · "
        f"partition {message.partition}, generation {message.generation}"
    )
    console.print(f"survives the loss of   {margin_text(message.margin)}")
    console.print(f"register copies at     {safe(' '.join(message.register_copies))}")
    table = table_of("part", "shard", "home", "written at", "found at")
    for shard in message.shards:
        at_home = shard.home in shard.found_at
        cells = [str(shard.part), str(shard.index), shard.home, shard.named or "a store that is gone"]
        cells.append(" ".join(shard.found_at) or "nowhere")
        row(table, cells, "up" if at_home else "down")
    console.print(table)
    if message.unreachable:
        console.print(f"[red]![/] did not answer: {safe(' '.join(message.unreachable))}")


@contextmanager
def examining(output: Output) -> Generator[Callable[[int, int], None]]:
    """How many blobs and shards were looked at, on a terminal; nothing in a pipe."""

    def show(blobs: int, shards: int) -> None:
        sys.stderr.write(f"\r{blobs} blobs, {shards} shards examined")

    if not output.bars:
        yield lambda _blobs, _shards: None
        return
    try:
        yield show
    finally:
        sys.stderr.write("\r\x1b[K")


def at_risk(output: Output, found: Sequence[admin_pb2.AtRisk], total: int) -> None:
    """Of `total`, those that are given."""
    table = table_of("blob", "version", "if lost", "what", "left", "needed")
    for item in found:
        name = f"{item.bucket}/{key_text(item.key)}"
        cells = [name, str(item.version), item.lose, item.what, str(item.left), str(item.needed)]
        row(table, cells, "down")
    output.console().print(table)
    if total > len(found):
        output.console().print(f"and {total - len(found)} more; --json names all")


Ask = Callable[[], "admin_pb2.PlanReply"]


def plan(output: Output, found: admin_pb2.PlanReply) -> None:
    """What a change would move, or has begun to move."""
    console = output.console()
    if not found.pools:
        console.print("nothing to do: that is how it is already" if not found.applied else "done")
        return
    did = f"applied, epoch {found.epoch}" if found.applied else "nothing has changed yet"
    console.print(f"[bold]{found.kind} {_concerned(found)}[/] · {did}")
    for moves in found.pools:
        if found.pool == moves.pool:
            console.print(
                f"pool {safe(moves.pool)}   everything is written anew: {size_text(moves.bytes)} of shards for what is "
                "stored now"
            )
            continue
        if found.pool and not moves.slots:
            continue
        console.print(
            f"pool {safe(moves.pool)}   {moves.slots} of {moves.all_slots} shard slots move, at least "
            f"{moves.least_slots} must; {size_text(moves.bytes)} of what is stored now"
        )
    console.print(f"until then blobs survive the loss of   {losses_text(found.margin)}")
    for warning in found.warnings:
        console.print(f"[yellow]![/] {safe(warning)}")
    if found.applied and not found.settled:
        output.note("next: clusterctl plan --wait")


def progress(output: Output, found: admin_pb2.PlanReply) -> None:
    """How far the last change is."""
    console = output.console()
    if not found.kind:
        console.print("no change of nodes was ever made")
        return
    moved = found.partitions - found.open
    left = f", about {time_text(found.eta_s)} left" if found.eta_s >= 0 and not found.settled else ""
    how = "done" if found.settled else "shards follow" if not found.open else "under way"
    console.print(
        f"[bold]{found.kind} {_concerned(found)}[/] · {how} · {moved} of {found.partitions} partitions "
        f"have moved{left}"
    )
    if not found.settled:
        console.print(f"until then blobs survive the loss of   {losses_text(found.margin)}")
    if found.left:
        console.print(f"left to do, for example: {safe(found.left)}")
    if found.kind in ("drain", "loss") and found.settled:
        removing = " && ".join(f"clusterctl node remove {name}" for name in found.nodes)
        output.note(f"next: {removing}" if found.kind == "drain" else f"if they never come back: {removing}")


def _concerned(found: admin_pb2.PlanReply) -> str:
    return safe(f"pool {found.pool}" if found.pool else " ".join(found.nodes))


@contextmanager
def moving(output: Output, found: admin_pb2.PlanReply) -> Generator[Callable[[admin_pb2.PlanReply], None]]:
    """A bar on a terminal, nothing in a pipe."""
    if not output.bars:
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.completed} of {task.total}"))
    with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True), transient=True) as bars:
        task = bars.add_task("partitions moved", total=found.partitions)

        def show(now: admin_pb2.PlanReply) -> None:
            what = "partitions moved" if now.open else "shards follow"
            bars.update(task, completed=now.partitions - now.open, total=now.partitions, description=what)

        show(found)
        yield show


def losses_text(margin: blob_pb2.Margin) -> str:
    """What a margin survives: `1 san, 2 node`. A negative one has no loss to spare: it is short already."""
    if any(entry.survives < 0 for entry in margin.entries):
        return SHORT
    return printable(", ".join(f"{entry.survives} {entry.tag}" for entry in margin.entries)) or "not known"


def margin_text(margin: blob_pb2.Margin) -> str:
    """The same for a console; the brackets say that shards are missing or away from home."""
    return safe(losses_text(margin) if margin.full else f"{losses_text(margin)} [not full]")


def partitions_text(message: admin_pb2.StatusReply) -> str:
    text = f"{message.partitions_full} of {message.partitions} full"
    if message.partitions_degraded:
        text += f", {message.partitions_degraded} degraded"
    if message.partitions_unreported:
        text += f", {message.partitions_unreported} not reported"
    return text


def tags_text(tags: object) -> str:
    from collections.abc import Mapping
    from typing import cast

    return " ".join(f"{tag}={value}" for tag, value in sorted(cast("Mapping[str, str]", tags).items()))


def _domain(node: admin_pb2.NodeStatus) -> str:
    return " ".join(
        f"{tag}={value}" for tag, value in sorted(node.tags.items(), reverse=True) if tag != "host"
    )


def _used(node: admin_pb2.NodeStatus) -> str:
    return size_text(node.used_bytes) if node.capacity_bytes else "-"


def time_text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 48 * 3600 else f"{seconds / 86400:.1f} d"


def table_of(*columns: str) -> Table:
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold", show_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    return table


def row(table: Table, cells: Sequence[str], state: str) -> None:
    from rich.text import Text

    style = STYLES.get(state, "")
    table.add_row(*(Text(printable(cell), style=style if cell == state else "") for cell in cells))


def safe(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))
