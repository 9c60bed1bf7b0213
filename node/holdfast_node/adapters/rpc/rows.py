"""Who may call which gRPC method. A closed table: a method without a row is denied, whoever serves it."""

from __future__ import annotations

from enum import Enum
from typing import Final


class Row(Enum):
    LOOPBACK = "loopback"
    """Allowed to whoever connects from this machine, denied to everyone else."""


CONNECT: Final = "/holdfastpb.v1.peer.Links/Connect"

METHOD_ROWS: Final[dict[str, Row]] = {
    "/holdfastpb.v1.Blobs/Put": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/Get": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/Head": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/Delete": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/Undelete": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/List": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/Versions": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/CreateBucket": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/GetBucket": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/ListBuckets": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/SetBucket": Row.LOOPBACK,
    "/holdfastpb.v1.Blobs/DeleteBucket": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Identify": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Init": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Status": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/GetMap": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/ReplaceLost": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Change": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/GetPlan": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Quarantine": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Scrub": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/RebuildIndex": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Explain": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Prove": Row.LOOPBACK,
    "/holdfastpb.v1.Admin/Risk": Row.LOOPBACK,
    CONNECT: Row.LOOPBACK,
    "/grpc.health.v1.Health/Check": Row.LOOPBACK,
    "/grpc.health.v1.Health/List": Row.LOOPBACK,
    "/grpc.health.v1.Health/Watch": Row.LOOPBACK,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Row.LOOPBACK,
}


def needs_store(method: str) -> bool:
    """Whether a node without a working store leaves it to others. Links say goodbye themselves, and probes answer."""
    return method.startswith(("/holdfastpb.v1.Blobs/", "/holdfastpb.v1.Admin/"))


def is_loopback(peer: str) -> bool:
    """Whether a gRPC peer name, for example `ipv4:127.0.0.1:40000`, is on this machine."""
    return peer.startswith(("ipv4:127.", "ipv6:[::1]:", "ipv6:%5B::1%5D:", "unix:"))


def may_call(method: str, peer: str) -> bool:
    return METHOD_ROWS.get(method) is Row.LOOPBACK and is_loopback(peer)
