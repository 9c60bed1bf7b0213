"""The commands that ask a cluster. Each asks one question, prints one answer, and its exit status says how it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.shell import EXIT_FINE, EXIT_REFUSED, EXIT_USAGE
from holdfast_ctl import documents, report, screen
from holdfast_ctl.buckets import bucket
from holdfast_ctl.changes import create, node, plan, recode
from holdfast_ctl.rebuild import rebuild_index
from holdfast_ctl.risk import risk
from holdfast_ctl.scrub import scrub
from holdfast_ctl.session import Session, json_option, session_of

if TYPE_CHECKING:
    from holdfastpb.v1 import admin_pb2


@click.command()
@click.option(
    "--config", type=click.Path(path_type=Path), help="The cluster's file; default the local cluster's."
)
@json_option
@click.pass_context
def init(context: click.Context, /, *, config: Path | None, as_json: bool) -> None:
    """Found the cluster from its file. All nodes must run, with empty stores. Doing it twice is fine."""
    from holdfast.admin import Admin
    from holdfast.testing.layout import CONFIG_NAME, read
    from holdfast.testing.local import seed_of

    session = session_of(context, as_json=as_json)
    layout = read(config or session.local_root / CONFIG_NAME)
    with Admin(session.endpoints or layout.endpoints, timeout_s=session.timeout_s) as admin:
        reply = admin.init(seed_of(layout))
    if session.output.as_json:
        session.output.document(
            {
                "cluster_id": reply.cluster_id.hex(),
                "epoch": reply.epoch,
                "already": reply.already,
                "warnings": list(reply.warnings),
            }
        )
        return
    for warning in reply.warnings:
        session.output.note(f"warning: {warning}")
    was = "was founded before" if reply.already else "is founded"
    session.output.line(f"cluster {reply.cluster_id.hex()} {was}, epoch {reply.epoch}")


@click.command()
@json_option
@click.pass_context
def status(context: click.Context, /, *, as_json: bool) -> int:
    """One screen: nodes, least margin, what is healing, what is wrong and what to do. Exit 1 unless healthy."""
    session = session_of(context, as_json=as_json)
    found = _status(session)
    if session.output.as_json:
        session.output.document(documents.status(found))
    else:
        screen.status(session.output, found)
    return EXIT_FINE if found.healthy else EXIT_REFUSED


@click.command()
@json_option
@click.pass_context
def nodes(context: click.Context, /, *, as_json: bool) -> None:
    """The nodes by domain."""
    session = session_of(context, as_json=as_json)
    found = _status(session)
    if session.output.as_json:
        session.output.document({"nodes": [documents.node(node) for node in found.nodes]})
    else:
        report.nodes(session.output, found)


@click.command()
@json_option
@click.pass_context
def pools(context: click.Context, /, *, as_json: bool) -> None:
    """The pools: code, protected tags, what they survive by design."""
    session = session_of(context, as_json=as_json)
    found = _status(session)
    if session.output.as_json:
        session.output.document({"pools": [documents.pool(pool) for pool in found.pools]})
    else:
        report.pools(session.output, found)


@click.group(name="map")
def map_group() -> None:
    """The cluster map: who is who, and which store is home to what."""


@map_group.command(name="show")
@json_option
@click.pass_context
def map_show(context: click.Context, /, *, as_json: bool) -> None:
    """The map as the asked node has it."""
    session = session_of(context, as_json=as_json)
    with session.admin() as admin:
        found = documents.cluster_map(admin.map())
    if session.output.as_json:
        session.output.document(found)
        return
    for name, value in found.items():
        if name not in {"nodes", "pools"}:
            session.output.line(f"{name:>18}  {value}")
    for pool in _list(found["pools"]):
        former = f", some of it still in {pool['former_code']}" if pool["former_code"] else ""
        session.output.line(f"pool {pool['name']}: {pool['code']}{former}")
        for number, partition in enumerate(_list(pool["partitions"])):
            homes = [" ".join(_words(partition["homes"]))]
            for said, which in (("learning", "learners"), ("moving to", "moving"), ("shards at", "shards")):
                if partition[which]:
                    homes.append(f"{said}: {' '.join(_words(partition[which]))}")
            session.output.line(f"{number:>6}  generation {partition['generation']}  {'  '.join(homes)}")


@click.command()
@click.argument("bucket")
@click.argument("key")
@json_option
@click.pass_context
def explain(context: click.Context, /, *, bucket: str, key: str, as_json: bool) -> None:
    """Where each shard of a blob is, and what the blob survives."""
    from holdfast.core.requests import key_bytes

    session = session_of(context, as_json=as_json)
    with session.admin() as admin:
        found = admin.explain(bucket, key_bytes(key))
    if session.output.as_json:
        session.output.document(documents.explanation(bucket, found))
    else:
        report.explanation(session.output, bucket, found)


@click.command()
@click.option(
    "--lose", "selectors", multiple=True, metavar="SEL", help="A node or TAG=VALUE; all named go together."
)
@json_option
@click.pass_context
def prove(context: click.Context, /, *, selectors: tuple[str, ...], as_json: bool) -> int:
    """From the shards that are really there: what could not be read any more if SEL went? Without --lose each protected
    domain and each node is tried in turn. Exit 1 if anything is at risk or a node did not answer."""
    from holdfastpb.v1 import admin_pb2

    session = session_of(context, as_json=as_json)
    at_risk: list[admin_pb2.AtRisk] = []
    total = 0
    last = admin_pb2.ProveReply()
    with session.admin() as admin, report.examining(session.output) as show:
        for last in admin.prove(selectors):
            total += len(last.at_risk)
            room = len(last.at_risk) if session.output.as_json else report.ROWS_MAX - len(at_risk)
            at_risk += last.at_risk[:room]
            show(last.blobs, last.shards)
    if session.output.as_json:
        session.output.document(
            {
                "safe": not total and not last.unreachable,
                "tested": list(last.tested),
                "blobs": last.blobs,
                "bytes": last.bytes,
                "shards": last.shards,
                "at_risk": [documents.at_risk(item) for item in at_risk],
                "unreachable": list(last.unreachable),
                "least_margin": documents.margin(last.least_margin),
            }
        )
    else:
        _say_proof(session, last, at_risk, total)
    return EXIT_REFUSED if total or last.unreachable else EXIT_FINE


@click.group()
def heal() -> None:
    """Restoring redundancy."""


@heal.command(name="status")
@json_option
@click.pass_context
def heal_status(context: click.Context, /, *, as_json: bool) -> int:
    """What is being healed, how fast, how long it will take. Exit 1 until nothing is left."""
    session = session_of(context, as_json=as_json)
    found = _status(session)
    if session.output.as_json:
        session.output.document(documents.heal(found))
    else:
        report.heal(session.output, found)
    return EXIT_FINE if found.healthy else EXIT_REFUSED


@click.group()
def quarantine() -> None:
    """Blobs that heal could not mend after many tries."""


@quarantine.command(name="list")
@json_option
@click.pass_context
def quarantine_list(context: click.Context, /, *, as_json: bool) -> int:
    """Which blobs, how grave, and why. Exit 1 if there is any."""
    return _quarantine(session_of(context, as_json=as_json), retry=False)


@quarantine.command(name="retry")
@json_option
@click.pass_context
def quarantine_retry(context: click.Context, /, *, as_json: bool) -> int:
    """Try all of them again now, after what kept them from being mended has been put right."""
    return _quarantine(session_of(context, as_json=as_json), retry=True)


def _quarantine(session: Session, *, retry: bool) -> int:
    with session.admin() as admin:
        found = admin.quarantine(retry=retry)
    if session.output.as_json:
        session.output.document(documents.quarantine(found))
    else:
        report.quarantine(session.output, found)
        if retry and found.total:
            session.output.note("they are tried again now: clusterctl heal status")
    return EXIT_REFUSED if found.total or found.unreachable else EXIT_FINE


@click.group()
def config() -> None:
    """The cluster's file."""


@config.command(name="check")
@click.argument("path", type=click.Path(path_type=Path), required=False)
@json_option
@click.pass_context
def config_check(context: click.Context, /, *, path: Path | None, as_json: bool) -> int:
    """Read a cluster's file as a node would, and list every mistake in it. Exit 2 if there is one."""
    from holdfast.testing.layout import CONFIG_NAME

    session = session_of(context, as_json=as_json)
    chosen = path or session.local_root / CONFIG_NAME
    # The node is the one that knows; it is another program, so it is asked as one.
    command = [sys.executable, "-P", "-m", "holdfast_node", "--config", str(chosen), "--check"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    said = [line for line in (done.stdout + done.stderr).splitlines() if line.strip()]
    if session.output.as_json:
        session.output.document({"path": str(chosen), "fine": done.returncode == 0, "said": said})
    else:
        for line in said:
            session.output.line(line)
    return EXIT_FINE if done.returncode == 0 else EXIT_USAGE


@click.group()
def pool() -> None:
    """Changes to pools."""


pool.add_command(create)
pool.add_command(recode)

CLUSTER_COMMANDS: Final = (
    init,
    status,
    nodes,
    pools,
    map_group,
    explain,
    prove,
    risk,
    node,
    pool,
    bucket,
    plan,
    heal,
    scrub,
    quarantine,
    rebuild_index,
    config,
)


def _status(session: Session) -> admin_pb2.StatusReply:
    with session.admin() as admin:
        return admin.status()


def _say_proof(
    session: Session, proof: admin_pb2.ProveReply, at_risk: list[admin_pb2.AtRisk], total: int
) -> None:
    session.output.line(
        f"{proof.blobs} blobs, {proof.shards} shards found; tried: {', '.join(proof.tested) or 'nothing'}"
    )
    if proof.unreachable:
        session.output.line(f"did not answer, so their shards do not count: {' '.join(proof.unreachable)}")
    if at_risk:
        report.at_risk(session.output, at_risk, total)
    else:
        session.output.line("nothing would become unreadable")


def _list(value: object) -> list[dict[str, object]]:
    from typing import cast

    return cast("list[dict[str, object]]", value)


def _words(value: object) -> list[str]:
    from typing import cast

    return cast("list[str]", value)
