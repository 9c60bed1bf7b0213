"""The commands of `holdfast`. Each does one thing of the SDK and says what came of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from holdfast.cli import documents
from holdfast.cli.bars import bar
from holdfast.cli.places import place
from holdfast.cli.shell import (
    EXIT_FINE,
    EXIT_REFUSED,
    EXIT_USAGE,
    Output,
    Usage,
    endpoints,
    run,
    seconds,
    size_text,
    waiting_time,
)
from holdfast.values import Prefix

if TYPE_CHECKING:
    from holdfast import Client


@dataclass(frozen=True, slots=True)
class Session:
    """What the options before the command said."""

    output: Output
    endpoints: str | None
    timeout_s: float

    def client(self) -> Client:
        import holdfast

        return holdfast.connect(endpoints(self.endpoints), timeout=self.timeout_s)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 0 fine, 1 refused, 2 bad usage, 3 no node answered."""
    return run(cli, arguments, program="holdfast")


json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
"""May stand before or after the command's name."""


def opened(context: click.Context, as_json: bool) -> tuple[Output, Client]:
    session: Session = context.obj
    output = Output(as_json=as_json or session.output.as_json)
    return output, context.with_resource(session.client())


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--endpoints", metavar="HOST:PORT,...", help="Nodes to ask; default HOLDFAST_ENDPOINTS, else ./.holdfast."
)
@click.option(
    "--timeout",
    type=waiting_time,
    metavar="SECONDS",
    default=60.0,
    show_default=True,
    help="Without progress, before a call is given up.",
)
@json_option
@click.pass_context
def cli(context: click.Context, /, *, endpoints: str | None, timeout: float, as_json: bool) -> None:
    """Blobs in a Holdfast cluster, by BUCKET/KEY."""
    context.obj = Session(Output(as_json=as_json), endpoints, timeout)


@cli.command()
@click.argument("bucket")
@click.option(
    "--undo", default=None, metavar="TIME", help="How long deletions can be undone: 90s, 15m, 24h, 7d."
)
@click.option("--pool", default="", help="Where its blobs go; default the cluster's first pool.")
@click.option("--exist-ok", is_flag=True, help="No error if it is there already.")
@json_option
@click.pass_context
def mb(
    context: click.Context, /, *, bucket: str, undo: str | None, pool: str, exist_ok: bool, as_json: bool
) -> None:
    """Make a bucket."""
    undo_s = None if undo is None else seconds(undo)
    output, client = opened(context, as_json)
    made = client.create_bucket(bucket, exist_ok=exist_ok, pool=pool, undo=undo_s)
    if output.as_json:
        output.document(documents.bucket(made.info()))


@cli.command()
@click.argument("bucket")
@json_option
@click.pass_context
def rb(context: click.Context, /, *, bucket: str, as_json: bool) -> None:
    """Remove an empty bucket."""
    output, client = opened(context, as_json)
    client.delete_bucket(bucket)
    if output.as_json:
        output.document({"bucket": bucket, "deleted": True})


@cli.command()
@click.argument("file")
@click.argument("target", metavar="BUCKET/KEY")
@click.option("--if-absent", is_flag=True, help="Only if there is no such blob.")
@click.option("--if-version", type=int, help="Only if this is the current version.")
@click.option("--content-type", default="")
@click.option("--meta", multiple=True, metavar="NAME=VALUE", help="User metadata; may be repeated.")
@json_option
@click.pass_context
def put(context: click.Context, /, *, file: str, target: str, as_json: bool, **options: object) -> None:
    """Store FILE (or - for standard input) as a blob."""
    where = place(target)
    output, client = opened(context, as_json)
    key = where.key + (Path(file).name if where.key.endswith("/") and file != "-" else "")
    # Without a buffer, whose lock an interrupted read would hold when the program ends.
    source = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False) if file == "-" else Path(file)  # noqa: SIM115
    with bar(output, file) as progress:
        receipt = client.bucket(where.bucket).put(
            key,
            source,
            if_absent=bool(options["if_absent"]),
            if_version=_number(options["if_version"]),
            content_type=str(options["content_type"]),
            metadata=_metadata(options["meta"]),
            progress=progress,
        )
    if output.as_json:
        output.document(documents.receipt(where.bucket, key, receipt))
    else:
        output.note(
            f"version {receipt.version}, {size_text(receipt.size)}, {receipt.hash}, survives {_margin(receipt.margin)}"
        )


@cli.command()
@click.argument("source", metavar="BUCKET/KEY")
@click.argument("file", required=False)
@click.option("--version", type=int, help="An older version that is kept.")
@click.option(
    "--range", "span", metavar="START-END", help="Bytes START to END, END excluded; either may be missing."
)
@json_option
@click.pass_context
def get(
    context: click.Context,
    /,
    *,
    source: str,
    file: str | None,
    version: int | None,
    span: str | None,
    as_json: bool,
) -> None:
    """Write a blob to FILE (default: its last name, here; - for standard output). Whole and verified, or not at all."""
    where = place(source)
    wanted = _range(span)
    output, client = opened(context, as_json)
    blob = client.bucket(where.bucket).get(where.key, version=version, range=wanted)
    if file == "-":
        for chunk in blob.iter():
            sys.stdout.buffer.write(chunk)
        return
    path = Path(file or where.key.rstrip("/").rpartition("/")[2])
    path = path / where.key.rpartition("/")[2] if path.is_dir() else path
    with bar(output, str(path)) as progress:
        blob.save(path, progress=progress)
    if output.as_json:
        output.document({**documents.blob(where.bucket, blob.info), "path": str(path), "bytes": blob.length})


@cli.command()
@click.argument("sources", metavar="BUCKET/KEY...", nargs=-1, required=True)
@click.option("--version", type=int, help="An older version that is kept.")
@click.pass_context
def cat(context: click.Context, /, *, sources: tuple[str, ...], version: int | None) -> None:
    """Write blobs to standard output."""
    places = [place(source) for source in sources]
    _, client = opened(context, False)
    for where in places:
        for chunk in client.bucket(where.bucket).get(where.key, version=version).iter():
            sys.stdout.buffer.write(chunk)
    sys.stdout.buffer.flush()


@cli.command()
@click.argument("target", metavar="[BUCKET[/PREFIX]]", required=False)
@click.option("-r", "--recursive", is_flag=True, help="All keys, not only up to the next slash.")
@click.option("-l", "--long", "detailed", is_flag=True, help="Size, time and version, too.")
@json_option
@click.pass_context
def ls(
    context: click.Context, /, *, target: str | None, recursive: bool, detailed: bool, as_json: bool
) -> None:
    """List buckets, or the blobs of one."""
    where = None if target is None else place(target, key=False)
    output, client = opened(context, as_json)
    if where is None:
        buckets = list(client.buckets())
        if output.as_json:
            output.document({"buckets": [documents.bucket(info) for info in buckets]})
        for info in () if output.as_json else buckets:
            output.line(f"{info.name}/")
        return
    entries = client.bucket(where.bucket).list(prefix=where.key, delimiter="" if recursive else "/")
    if output.as_json:
        documents.stream("entries", (documents.entry(where.bucket, entry) for entry in entries))
        return
    for entry in entries:
        if detailed and not isinstance(entry, Prefix):
            output.line(
                f"{entry.size:>14}  {entry.created:%Y-%m-%d %H:%M:%S}  {entry.version:>6}  {entry.name}"
            )
        else:
            output.line(f"{'':>40}{entry.name}" if detailed else entry.name)


@cli.command()
@click.argument("targets", metavar="BUCKET/KEY...", nargs=-1, required=True)
@click.option("-r", "--recursive", is_flag=True, help="Everything under BUCKET/PREFIX/.")
@click.option("--yes", is_flag=True, help="With -r: do not ask.")
@json_option
@click.pass_context
def rm(
    context: click.Context, /, *, targets: tuple[str, ...], recursive: bool, yes: bool, as_json: bool
) -> int:
    """Delete blobs. `undelete` brings them back within the bucket's undo window."""
    places = [place(target, key=not recursive) for target in targets]
    output, client = opened(context, as_json)
    if recursive:
        confirm(output, ", ".join(str(where) for where in places), yes=yes, verb="delete everything under")
    failed, deleted = 0, 0
    for where in places:
        bucket = client.bucket(where.bucket)
        prefix = where.key if not where.key or where.key.endswith("/") else f"{where.key}/"
        keys = (info.key for info in bucket.list(prefix=prefix)) if recursive else [where.key]
        for outcome in bucket.delete_many(keys):
            deleted += outcome.ok
            failed += not outcome.ok
            if outcome.error is not None and not recursive:
                raise outcome.error
    if output.as_json:
        output.document({"deleted": deleted, "failed": failed})
    elif recursive:
        output.note(f"{deleted} deleted, {failed} failed")
    return EXIT_REFUSED if failed else EXIT_FINE


@cli.command()
@click.argument("target", metavar="BUCKET/KEY")
@json_option
@click.pass_context
def stat(context: click.Context, /, *, target: str, as_json: bool) -> None:
    """What is known of a blob, and of the versions that are kept."""
    where = place(target)
    output, client = opened(context, as_json)
    bucket = client.bucket(where.bucket)
    versions = bucket.versions(where.key)
    current = next((version for version in versions if version.current), None)
    if output.as_json:
        info = (
            None
            if current is None or current.deleted
            else documents.blob(where.bucket, bucket.head(where.key))
        )
        output.document({"blob": info, "versions": [documents.version(version) for version in versions]})
        return
    if current is None or not current.deleted:
        for name, value in documents.blob(where.bucket, bucket.head(where.key)).items():
            output.line(f"{name:>14}  {documents.plain(value)}")
    else:
        output.line(f"{where} is deleted")
    for version in versions:
        what = "deleted" if version.deleted else size_text(version.size)
        output.line(f"{'version':>14}  {version.version}  {what}{'  (current)' if version.current else ''}")


@cli.command()
@click.argument("target", metavar="BUCKET/KEY")
@click.option("--version", type=int, help="Which; default the newest that holds a blob.")
@json_option
@click.pass_context
def undelete(context: click.Context, /, *, target: str, version: int | None, as_json: bool) -> None:
    """Make a kept version current again."""
    where = place(target)
    output, client = opened(context, as_json)
    receipt = client.bucket(where.bucket).undelete(where.key, version=version)
    if output.as_json:
        output.document(documents.receipt(where.bucket, where.key, receipt))
    else:
        output.note(f"version {receipt.version}, {size_text(receipt.size)}, {receipt.hash}")


@cli.command()
@click.argument("source")
@click.argument("target")
@click.option("-r", "--recursive", is_flag=True, help="A directory, or everything under a prefix.")
@json_option
@click.pass_context
def cp(context: click.Context, /, *, source: str, target: str, recursive: bool, as_json: bool) -> int:
    """Copy between local paths and hf://BUCKET/KEY, or within the cluster."""
    from holdfast.cli.copying import copy

    output, client = opened(context, as_json)
    tally = copy(client, output, source, target, recursive=recursive)
    failed = tally.failed or []
    if output.as_json:
        said = [{"what": item.who, "why": item.said} for item in failed]
        output.document({"blobs": tally.blobs, "bytes": tally.bytes, "failed": said})
    else:
        for item in failed:
            output.note(f"not copied: {item}")
        output.note(
            f"{tally.blobs} blobs, {size_text(tally.bytes)}" + (f", {len(failed)} failed" if failed else "")
        )
    return EXIT_REFUSED if failed else EXIT_FINE


def confirm(output: Output, name: str, *, yes: bool, verb: str) -> None:
    """A destructive command wants --yes or the name typed back; nobody to ask is a refusal with exit status 2."""
    if yes:
        return
    if not output.interactive:
        raise Usage(f"this would {verb} {name}; say --yes if that is meant")
    typed = click.prompt(
        f"This will {verb} {name}. Type the name to go on", default="", show_default=False, err=True
    )
    if typed != name:
        click.echo("not what was asked for; nothing was done", err=True)
        raise click.exceptions.Exit(EXIT_USAGE)


def _number(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _metadata(values: object) -> dict[str, str]:
    found: dict[str, str] = {}
    for value in cast("tuple[str, ...]", values):
        name, equals, text = value.partition("=")
        if not equals or not name:
            raise Usage(f"{value!r} is not NAME=VALUE")
        found[name] = text
    return found


def _range(text: str | None) -> tuple[int, int | None] | None:
    if text is None:
        return None
    start, dash, end = text.partition("-")
    if not dash or not (start or "0").isdecimal() or not (end or "0").isdecimal():
        raise Usage(f"{text!r} is not START-END")
    return int(start or 0), int(end) if end else None


def _margin(margin: object) -> str:
    from holdfast.values import Margin

    assert isinstance(margin, Margin)
    return ", ".join(f"{count} {tag}" for tag, count in margin.items()) or "nothing more"
