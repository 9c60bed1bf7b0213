"""`clusterctl bucket`: what the buckets are, and changes to their settings."""

from __future__ import annotations

import time

import click

from holdfast.cli import documents
from holdfast.cli.shell import EXIT_FINE, seconds
from holdfast_ctl import report
from holdfast_ctl.session import confirm, json_option, session_of


@click.group()
def bucket() -> None:
    """The buckets, and changes to their settings."""


@bucket.command(name="list")
@json_option
@click.pass_context
def bucket_list(context: click.Context, /, *, as_json: bool) -> int:
    """Every bucket: its pool, and for how long what is overwritten or deleted in it can be brought back."""
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
    "--undo", required=True, metavar="TIME", help="How long deletions can be undone: 0, 90s, 24h, 7d."
)
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@click.pass_context
def bucket_set(context: click.Context, /, *, name: str, undo: str, yes: bool, as_json: bool) -> int:
    """Change for how long what is overwritten or deleted in bucket NAME can be brought back, from now on and of what is
    kept already. All nodes go by it some ten seconds later. A shorter time is asked about: what was deleted longer ago
    goes for good."""
    session = session_of(context, as_json=as_json)
    undo_s = seconds(undo)
    with session.client() as client:
        there = client.bucket(name)
        before = there.info()
        if undo_s < before.undo_s:
            verb = f"give up for good what was deleted or overwritten more than {report.time_text(undo_s)} ago in"
            confirm(session.output, name, yes=yes, verb=verb)
        info = there.set(undo=undo_s)
    if session.output.as_json:
        session.output.document(documents.bucket(info))
    else:
        session.output.line(report.undo_text(info))
    return EXIT_FINE
