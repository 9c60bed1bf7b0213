"""What the options of a `clusterctl` call said, and the questions before destructive commands."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast.cli.commands import confirm
from holdfast.cli.shell import LOCAL_ROOT, Output, endpoints

if TYPE_CHECKING:
    from holdfast import Client
    from holdfast.admin import Admin
    from holdfast.testing import LocalCluster

__all__ = ["Session", "confirm", "json_option", "session_of"]

json_option = click.option("--json", "as_json", is_flag=True, help="One JSON document instead of text.")
"""May stand before or after the command's name."""


@dataclass(frozen=True, slots=True)
class Session:
    output: Output
    endpoints: str | None
    root: str | None
    timeout_s: float

    def admin(self) -> Admin:
        from holdfast.admin import Admin

        return Admin(endpoints(self.endpoints, self.root), timeout_s=self.timeout_s)

    def client(self) -> Client:
        from holdfast import connect

        return connect(endpoints(self.endpoints, self.root), timeout=self.timeout_s)

    @property
    def local_root(self) -> Path:
        return Path(self.root or LOCAL_ROOT)

    def local(self) -> LocalCluster:
        """The local cluster in the directory; refused if there is none."""
        from holdfast.testing import LocalCluster

        return LocalCluster.at(self.local_root)


def session_of(context: click.Context, *, as_json: bool, root: str | None = None) -> Session:
    session: Session = context.obj
    if as_json:
        session = replace(session, output=Output(as_json=True))
    return session if root is None else replace(session, root=root)
