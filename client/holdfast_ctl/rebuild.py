"""`clusterctl rebuild-index`: a node makes the index of its store anew from its log."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final

import click

from holdfast.cli.shell import EXIT_FINE, EXIT_REFUSED, Output
from holdfast_ctl.session import json_option, session_of

if TYPE_CHECKING:
    from holdfast.admin import Admin
    from holdfastpb.v1 import admin_pb2

POLL_S: Final = 0.2
LIMIT_S: Final = 3600.0
"""For a log of terabytes."""


@click.command(name="rebuild-index")
@click.argument("node")
@json_option
@click.pass_context
def rebuild_index(context: click.Context, /, *, node: str, as_json: bool) -> int:
    """Have NODE throw its index away and make a new one from its log. The node starts again for that, and is down
    until it has read the log; nothing is lost with an index. A node whose index breaks does this by itself."""
    from holdfast.admin import Admin
    from holdfast.errors import InvalidArgument

    session = session_of(context, as_json=as_json)
    with session.admin() as admin:
        addresses = {found.name: found.address for found in admin.map().nodes}
    if node not in addresses:
        raise InvalidArgument(
            f"no node {node} in the cluster", hint=f"there are {', '.join(sorted(addresses))}"
        )
    began = time.monotonic()
    with Admin(addresses[node], timeout_s=session.timeout_s) as admin:
        boot = admin.rebuild_index(node).boot
        with _spinner(session.output, f"{node} reads its log"):
            found = _started_again(admin, boot)
    took_s = time.monotonic() - began
    if session.output.as_json:
        session.output.document(
            {"node": node, "seconds": round(took_s, 1), "voting": bool(found and found.voting)}
        )
    elif found is None:
        session.output.line(f"{node} has not started again within {LIMIT_S:.0f} s: see its log")
    else:
        session.output.line(f"{node} has a new index, made in {took_s:.1f} s")
    return EXIT_FINE if found is not None else EXIT_REFUSED


def _spinner(output: Output, text: str) -> AbstractContextManager[object]:
    """On a terminal; nothing in a pipe."""
    return output.console(stderr=True).status(text) if output.bars else nullcontext()


def _started_again(admin: Admin, boot: int) -> admin_pb2.IdentifyReply | None:
    """What the node says of itself when it votes again; None if it does not."""
    from holdfast.errors import Error

    deadline = time.monotonic() + LIMIT_S
    while time.monotonic() < deadline:
        try:
            found = admin.identify(timeout_s=1.0)
        except Error:
            pass
        else:
            if found.boot > boot and found.voting:
                return found
        time.sleep(POLL_S)
    return None
