"""Connections to the nodes and the attempts of a call. What to do after a failure is decided in `core.retry`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from typing import TYPE_CHECKING, Final, TypeVar

import grpc
from grpc import aio

from holdfast.core.endpoints import Rota
from holdfast.core.retry import Again, Course, Next
from holdfast.core.wire import ERROR_TRAILER, described, undescribed
from holdfast.errors import DeadlineExceeded, Error, Evidence, PeerUnreachable
from holdfast.values import Limits, Retries, Timeout
from holdfastpb.v1 import admin_pb2, admin_pb2_grpc, blob_pb2, blob_pb2_grpc

if TYPE_CHECKING:
    from holdfastpb.v1.admin_pb2_grpc import AdminAsyncStub
    from holdfastpb.v1.blob_pb2_grpc import BlobsAsyncStub

Result = TypeVar("Result")

MESSAGE_BYTES_MAX: Final = 8 * 1024 * 1024
"""A chunk of 4 MiB and what surrounds it; also a page of 1000 blobs with ordinary metadata."""
REQUEST_ID_BYTES: Final = 16
CLOSED: Final = "this client is closed"
# A node that stops without closing its connections (a pause, a pulled cable) is noticed by pings after 11 s.
# `ping_timeout_ms` is what ends the connection: without it a paused node was waited for until the call's own limit.
# gRPC's threads answer pings: how long a node that is alive may take is `Timeout.idle`.
CHANNEL_OPTIONS: Final[Sequence[tuple[str, int]]] = (
    ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
    ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 6_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.enable_http_proxy", 0),
    # Otherwise gRPC widens its windows and reads ahead of the caller, in memory nobody counts.
    ("grpc.http2.bdp_probe", 0),
)


class Peer:
    """One endpoint's channel and stubs."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._channel = aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
        self.blobs: BlobsAsyncStub = blob_pb2_grpc.BlobsStub(self._channel)
        self.admin: AdminAsyncStub = admin_pb2_grpc.AdminStub(self._channel)

    async def ready(self, connect_s: float) -> None:
        """Connected, or PeerUnreachable: then nothing of the call was sent."""
        state = self._channel.get_state(try_to_connect=True)
        if state is grpc.ChannelConnectivity.READY:
            return
        tried = False
        try:
            async with asyncio.timeout(connect_s):
                while state is not grpc.ChannelConnectivity.READY:
                    tried = tried or state is grpc.ChannelConnectivity.CONNECTING
                    if state is grpc.ChannelConnectivity.SHUTDOWN or (
                        tried and state is grpc.ChannelConnectivity.TRANSIENT_FAILURE
                    ):
                        break
                    await self._channel.wait_for_state_change(state)
                    state = self._channel.get_state(try_to_connect=True)
                else:
                    return
        except TimeoutError:
            pass
        raise PeerUnreachable(
            "no connection", evidence=[Evidence(self.endpoint, "does not take a connection")]
        )

    async def close(self) -> None:
        await self._channel.close()


class Transport:
    """All endpoints of one client. Bound to the loop it is used on."""

    def __init__(
        self, endpoints: Sequence[str], *, timeout: Timeout, limits: Limits, retries: Retries
    ) -> None:
        self.timeout = timeout
        self.limits = limits
        self.retries = retries
        self._rota = Rota(endpoints, start=random.randrange(len(endpoints)))  # noqa: S311  # spreads clients
        self._peers: dict[str, Peer] = {}
        self._era = 0
        self._closed = False

    def course(self, *, write: bool) -> Course:
        return Course(
            write=write,
            endpoints=len(self._rota.endpoints),
            timeout=self.timeout,
            retries=self.retries,
            now=self.now(),
        )

    def now(self) -> float:
        return time.monotonic()

    def saw_era(self, era: int) -> None:
        self._era = max(self._era, era)

    async def peer(self) -> Peer:
        """The endpoint in use, connected."""
        if self._closed:
            raise PeerUnreachable(CLOSED, evidence=[Evidence("this client", "was closed")])
        endpoint = self._rota.current
        peer = self._peers.get(endpoint)
        if peer is None:
            peer = self._peers[endpoint] = Peer(endpoint)
        try:
            await peer.ready(self.timeout.connect)
        except PeerUnreachable:
            self._rota.failed(endpoint)
            raise
        return peer

    async def after(self, course: Course, error: Error, *, sent: bool, endpoint: str) -> Next:
        """Waits as the course says, or raises the error for the caller."""
        again: Again = course.failed(error, sent=sent, now=self.now(), jitter=random.random())  # noqa: S311
        if again.leave and endpoint:
            self._rota.failed(endpoint)
        try:
            if again.pause_s > 0 and not self._closed:
                await asyncio.sleep(again.pause_s)
        except asyncio.CancelledError:
            if not self._closed:
                raise
        if self._closed:
            raise course.over(CLOSED)
        return again.how

    async def read(self, attempt: Callable[[Peer, float], Awaitable[Result]]) -> Result:
        """A call without effects, tried until it is answered."""
        return await self._tried(
            self.course(write=False), lambda peer, timeout_s, _: attempt(peer, timeout_s)
        )

    async def write(self, attempt: Callable[[Peer, float, blob_pb2.Call], Awaitable[Result]]) -> Result:
        """A call with effects: one identity over all attempts."""
        course = self.course(write=True)
        identity = await self.identity()
        return await self._tried(course, attempt, identity)

    async def _tried(
        self,
        course: Course,
        attempt: Callable[[Peer, float, blob_pb2.Call], Awaitable[Result]],
        call: blob_pb2.Call | None = None,
    ) -> Result:
        identity = call or blob_pb2.Call()
        while True:
            endpoint, sent = "", False
            try:
                with self.until_shut():
                    peer = await self.peer()
                    endpoint, sent = peer.endpoint, True
                    with errors_of(endpoint):
                        return await attempt(peer, course.attempt_timeout_s(self.now()), identity)
            except Error as error:
                how = await self.after(course, error, sent=sent, endpoint=endpoint)
                if how is Next.RESTAMP:
                    identity = await self.identity(fresh=True)

    async def identity(self, *, fresh: bool = False) -> blob_pb2.Call:
        """A new request id under the era this client knows; the first write of a client asks for it."""
        if fresh or not self._era:
            await self._learn_era()
        return blob_pb2.Call(request_id=secrets.token_bytes(REQUEST_ID_BYTES), stamp=self._era)

    async def _learn_era(self) -> None:
        async def attempt(peer: Peer, timeout_s: float) -> int:
            reply = await peer.admin.GetMap(admin_pb2.GetMapRequest(), timeout=timeout_s)
            return reply.map.era

        self.saw_era(await self.read(attempt))

    def shut(self) -> None:
        """From now on every call is over as soon as it is disturbed, with what is known of it."""
        self._closed = True

    @contextlib.contextmanager
    def until_shut(self) -> Generator[None, None, None]:
        """Closing cancels what is under way; to a caller, whom nobody cancelled, that is a failure like another."""
        try:
            yield
        except Error:
            raise
        except (asyncio.CancelledError, aio.UsageError) as error:
            if not self._closed:
                raise
            raise PeerUnreachable(CLOSED, evidence=[Evidence("this client", "was closed")]) from error

    async def close(self) -> None:
        self.shut()
        peers, self._peers = list(self._peers.values()), {}
        for peer in peers:
            await peer.close()


@contextlib.contextmanager
def errors_of(endpoint: str) -> Generator[None, None, None]:
    """Turns what gRPC raises into errors of this package."""
    try:
        yield
    except Error:
        raise
    except aio.AioRpcError as error:
        raise error_of(error, endpoint) from None
    except TimeoutError as error:
        raise DeadlineExceeded("no answer in time", evidence=[Evidence(endpoint, "nothing moved")]) from error


def error_of(error: aio.AioRpcError, endpoint: str) -> Error:
    """The node's own description where it gave one, else what the connection says."""
    for name, value in error.trailing_metadata() or ():
        if name == ERROR_TRAILER and isinstance(value, bytes):
            found = described(value, endpoint)
            if found is not None:
                return found
    return undescribed(error.code().name, error.details() or "", endpoint)
