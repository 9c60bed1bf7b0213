"""The operator's calls: one blocking call at a time to whichever node answers. For `clusterctl` and the testing kit; an
application does not need it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Final, Protocol, Self, TypeVar, cast

os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")

import grpc  # after the setting above, as in holdfast/__init__.py

from holdfast.core.endpoints import Rota, parse_endpoints
from holdfast.core.wire import ERROR_TRAILER, described, undescribed
from holdfast.errors import (
    DeadlineExceeded,
    Error,
    Evidence,
    NotInitialised,
    OutcomeUnknown,
    PeerUnreachable,
    StoreFailed,
    Unavailable,
    Unreachable,
)
from holdfastpb.v1 import admin_pb2, admin_pb2_grpc, types_pb2


class _Part(Protocol):
    """Of an answer that comes in parts."""

    @property
    def finished(self) -> bool: ...


Reply = TypeVar("Reply")
Part = TypeVar("Part", bound=_Part)

TIMEOUT_S: Final = 20.0
ALIVE_S: Final = 5.0
PROVE_TIMEOUT_S: Final = 24 * 3600.0
MESSAGE_BYTES_MAX: Final = 64 * 1024 * 1024
"""A map of the most partitions is about that large."""
OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 50),
    ("grpc.min_reconnect_backoff_ms", 50),
    ("grpc.max_reconnect_backoff_ms", 250),
    # As in aio/transport.py: a node that stands still is noticed after 11 s, however long a proof may take.
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
)
SILENT: Final = (PeerUnreachable, DeadlineExceeded)
"""What was asked of may have done it."""


class Admin:
    """Asks the first endpoint that answers and knows the cluster. Its refusal is final. A change is sent once,
    as it has no identity by which another node would know it again: if its answer is lost, its outcome is unknown."""

    def __init__(self, endpoints: str | Sequence[str], *, timeout_s: float = TIMEOUT_S) -> None:
        self._rota = Rota(parse_endpoints(endpoints))
        self._timeout_s = timeout_s
        self._channels: dict[str, grpc.Channel] = {}

    @property
    def endpoints(self) -> tuple[str, ...]:
        return self._rota.endpoints

    def identify(self, *, timeout_s: float | None = None) -> admin_pb2.IdentifyReply:
        return self._call(
            lambda stub, _: stub.Identify(admin_pb2.IdentifyRequest(), timeout=timeout_s or self._timeout_s)
        )

    def init(self, seed: admin_pb2.InitRequest) -> admin_pb2.InitReply:
        return self._call(lambda stub, limit_s: stub.Init(seed, timeout=limit_s), changes=True)

    def status(self) -> admin_pb2.StatusReply:
        return self._call(lambda stub, limit_s: stub.Status(admin_pb2.StatusRequest(), timeout=limit_s))

    def map(self) -> types_pb2.ClusterMap:
        return self._call(lambda stub, limit_s: stub.GetMap(admin_pb2.GetMapRequest(), timeout=limit_s)).map

    def replace_lost(self, selector: str) -> admin_pb2.ReplaceLostReply:
        request = admin_pb2.ReplaceLostRequest(selector=selector)
        return self._call(lambda stub, limit_s: stub.ReplaceLost(request, timeout=limit_s), changes=True)

    def change(self, asked: admin_pb2.ChangeRequest) -> admin_pb2.PlanReply:
        """Plans a change of nodes; with `apply` set, begins it."""
        return self._call(lambda stub, limit_s: stub.Change(asked, timeout=limit_s), changes=asked.apply)

    def plan(self) -> admin_pb2.PlanReply:
        """How far the last change is."""
        return self._call(lambda stub, limit_s: stub.GetPlan(admin_pb2.GetPlanRequest(), timeout=limit_s))

    def quarantine(self, *, retry: bool = False) -> admin_pb2.QuarantineListReply:
        """What heal cannot mend, and why; with `retry`, it is tried again at once."""
        request = admin_pb2.QuarantineRequest(retry=retry)
        return self._call(lambda stub, limit_s: stub.Quarantine(request, timeout=limit_s))

    def scrub(self, *, now: bool = False) -> admin_pb2.ScrubReply:
        """How far every node has read itself back from its disk; with `now`, all begin a cycle at once."""
        request = admin_pb2.ScrubRequest(now=now)
        return self._call(lambda stub, limit_s: stub.Scrub(request, timeout=limit_s))

    def rebuild_index(self, node: str) -> admin_pb2.RebuildIndexReply:
        """Of the node that is asked, which must have this name. It starts again, and is silent until it has one."""
        request = admin_pb2.RebuildIndexRequest(node=node)
        return self._call(lambda stub, limit_s: stub.RebuildIndex(request, timeout=limit_s), changes=True)

    def explain(self, bucket: str, key: bytes) -> admin_pb2.ExplainReply:
        request = admin_pb2.ExplainRequest(bucket=bucket, key=key)
        return self._call(lambda stub, limit_s: stub.Explain(request, timeout=limit_s))

    def prove(self, lose: Sequence[str] = ()) -> Iterator[admin_pb2.ProveReply]:
        """Progress, then the result (`finished`). A stream that breaks raises; proving has no effects, so ask again."""
        request = admin_pb2.ProveRequest(lose=lose)
        yield from self._stream(lambda stub: stub.Prove(request, timeout=PROVE_TIMEOUT_S))

    def risk(self, margin: int = 0, *, pool: str = "") -> Iterator[admin_pb2.RiskReply]:
        """Blobs that survive `margin` losses of some protected tag or fewer: progress, then the result (`finished`)."""
        request = admin_pb2.RiskRequest(margin=margin, pool=pool)
        yield from self._stream(lambda stub: stub.Risk(request, timeout=PROVE_TIMEOUT_S))

    def close(self) -> None:
        for channel in self._channels.values():
            channel.close()
        self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _stream(self, ask: Callable[[admin_pb2_grpc.AdminStub], Iterable[Part]]) -> Iterator[Part]:
        self.map()  # settles on a node that knows the cluster
        endpoint = self._rota.current
        said: Sequence[Evidence] = (Evidence(endpoint, "ended it"),)
        finished = False
        try:
            for part in ask(self._stub(endpoint)):
                finished = part.finished
                yield part
        except grpc.RpcError as error:
            found = error_of(error, endpoint)
            if not isinstance(found, SILENT):
                raise found from None
            said = found.evidence
        if not finished:
            self._leave(endpoint)
            raise Unavailable("the answer was cut short", hint="ask again: it changes nothing", evidence=said)

    def _call(
        self, ask: Callable[[admin_pb2_grpc.AdminStub, float], Reply], *, changes: bool = False
    ) -> Reply:
        """A node without a map (a new one in the place of a lost one) or without a working store cannot speak for the
        cluster: ask the next."""
        evidence: list[Evidence] = []
        said: Error | None = None
        for _ in self._rota.endpoints:
            endpoint, sent = self._rota.current, False
            stub = self._stub(endpoint)
            try:
                if changes:  # what is not alive is not told of it, so that the next may be
                    stub.Identify(admin_pb2.IdentifyRequest(), timeout=min(ALIVE_S, self._timeout_s))
                    sent = True
                return ask(stub, self._timeout_s)
            except grpc.RpcError as error:
                found = error_of(error, endpoint)
            if not isinstance(found, (NotInitialised, StoreFailed, *SILENT)):
                raise found
            self._leave(endpoint)
            evidence += found.evidence
            if isinstance(found, NotInitialised) or (isinstance(found, StoreFailed) and not sent):
                said = found
            elif sent:
                raise OutcomeUnknown(
                    "the answer was lost; the change may or may not have been made",
                    hint="`clusterctl status` and `clusterctl plan` say which: look before you ask once more",
                    evidence=evidence,
                )
        if said is not None:
            raise type(said)(said.message, hint=said.hint, evidence=evidence)
        raise Unreachable(
            "no node answers", hint="is the cluster running? `clusterctl local up`", evidence=evidence
        )

    def _leave(self, endpoint: str) -> None:
        """And open a new connection when its turn comes again."""
        self._rota.failed(endpoint)
        channel = self._channels.pop(endpoint, None)
        if channel is not None:
            channel.close()

    def _stub(self, endpoint: str) -> admin_pb2_grpc.AdminStub:
        if endpoint not in self._channels:
            self._channels[endpoint] = grpc.insecure_channel(endpoint, options=OPTIONS)
        return admin_pb2_grpc.AdminStub(self._channels[endpoint])


def error_of(error: grpc.RpcError, endpoint: str) -> Error:
    """The node's own description where it gave one, else what the connection says."""
    call = cast("grpc.Call", error)  # what a stub raises is both
    for name, value in call.trailing_metadata() or ():
        if name == ERROR_TRAILER and isinstance(value, bytes):
            found = described(value, endpoint)
            if found is not None:
                return found
    return undescribed(call.code().name, call.details() or "", endpoint)
