"""`clusterctl bucket`: what the buckets are, and changes to their settings."""

from __future__ import annotations

import time

import click

from holdfast.cli import documents
from holdfast.cli.shell import EXIT_FINE, Usage, seconds, size
from holdfast_ctl import report
from holdfast_ctl.session import confirm, json_option, session_of


@click.group()
def bucket() -> None:
    """The buckets, and changes to their settings."""


@bucket.command(name="list")
@json_option
@click.pass_context
def bucket_list(context: click.Context, /, *, as_json: bool) -> int:
    """Every bucket: its pool, what is in it and may be, and for how long deletions can be undone."""
    session = session_of(context, as_json=as_json)
    with session.client() as client:
        found = list(client.buckets())
    if session.output.as_json:
        session.output.document({"buckets": [documents.bucket(info) for info in found]})
    else:
        report.buckets(session.output, found, now_s=time.time())
    return EXIT_FINE


@bucket.command(name="set")
@click.argument("name")
@click.option(
    "--undo", default=None, metavar="TIME", help="How long deletions can be undone: 0, 90s, 24h, 7d."
)
@click.option(
    "--quota", default=None, metavar="SIZE", help="What its blobs may have together: 10GiB; 0: no limit."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def bucket_set(
    context: click.Context, /, *, name: str, undo: str | None, quota: str | None, yes: bool, as_json: bool
) -> int:
    """Change settings of bucket NAME; all nodes go by them some ten seconds later.

    --undo: for how long what is overwritten or deleted can be brought back, from now on and of what is kept already. A
    shorter time is asked about: what was deleted longer ago goes for good.

    --quota: what the current blobs may have together. More is refused; what nodes take in at the same moment may go
    beyond it."""
    session = session_of(context, as_json=as_json)
    undo_s = None if undo is None else seconds(undo)
    quota_bytes = None if quota is None else size(quota)
    if undo_s is None and quota_bytes is None:
        raise Usage("nothing is to be set: give --undo or --quota")
    with session.client() as client:
        there = client.bucket(name)
        if undo_s is not None and undo_s < there.info().undo_s:
            verb = f"give up for good what was deleted or overwritten more than {report.time_text(undo_s)} ago in"
            confirm(session.output, name, yes=yes, verb=verb)
        info = there.set(undo=undo_s, quota=quota_bytes)
    if session.output.as_json:
        session.output.document(documents.bucket(info))
    else:
        session.output.line(report.bucket_text(info))
    return EXIT_FINE
