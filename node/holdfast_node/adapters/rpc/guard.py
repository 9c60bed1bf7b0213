"""In front of every method: who may call it, and what an error looks like to the caller. Knows no method's meaning."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import NoReturn, Protocol, TypeVar, cast

import grpc
from grpc import aio

from holdfast_node.adapters.rpc.rows import may_call, needs_store
from holdfast_node.adapters.rpc.statuses import DETAIL_KEY, encode_detail, one_line, status_of
from holdfast_node.core.errors import HoldfastError, InternalError, Unauthorized
from holdfast_node.ports import Entropy
from holdfast_node.services.events import Events

Q = TypeVar("Q")
A = TypeVar("A")


class CallContext(Protocol):
    """What is used of gRPC's context of one call."""

    def peer(self) -> str: ...

    async def write(self, message: object, /) -> None: ...

    async def abort(
        self, code: grpc.StatusCode, details: str, trailing_metadata: tuple[tuple[str, bytes], ...]
    ) -> NoReturn: ...


Call = Callable[[object, CallContext], Awaitable[object]]
Stream = Callable[[object, CallContext], AsyncGenerator[object, None]]


class Guard(aio.ServerInterceptor):
    """Typed errors become their status with a detail; anything else an incident number, never a traceback. `failure` is
    what callers of a node without a working store are told: another will serve them (ADR 0096)."""

    def __init__(self, events: Events, entropy: Entropy, failure: Callable[[], HoldfastError | None]) -> None:
        self._events = events
        self._entropy = entropy
        self._failure = failure

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Q, A] | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Q, A] | None:
        handler = await continuation(handler_call_details)
        if handler is None:
            return None  # gRPC itself answers UNIMPLEMENTED
        method = handler_call_details.method
        make, inner = _kind_of(handler)
        if inspect.isasyncgenfunction(inner):
            serve: object = self._stream(method, cast("Stream", inner))
        else:
            serve = self._call(method, cast("Call", inner))
        guarded = make(
            serve,
            request_deserializer=handler.request_deserializer,
            response_serializer=handler.response_serializer,
        )
        return cast("grpc.RpcMethodHandler[Q, A]", guarded)

    def _call(self, method: str, inner: Call) -> Call:
        async def call(request: object, context: CallContext) -> object:
            try:
                self._check(method, context)
                return await inner(request, context)
            except aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - the last line of defence of one call
                await self._fail(method, context, error)

        return call

    def _stream(self, method: str, inner: Stream) -> Call:
        """Writes the replies itself: a generator that gRPC drops would be closed only when it is collected, and what
        it holds, cells for example, would be held until then."""

        async def stream(request: object, context: CallContext) -> None:
            try:
                self._check(method, context)
                async with aclosing(inner(request, context)) as replies:
                    async for reply in replies:
                        await context.write(reply)
            except aio.AbortError:
                raise
            except Exception as error:  # noqa: BLE001 - as above
                await self._fail(method, context, error)

        return stream

    def _check(self, method: str, context: CallContext) -> None:
        if not may_call(method, context.peer()):
            raise Unauthorized(f"{method} is not allowed from {context.peer()}")
        if needs_store(method) and (failed := self._failure()) is not None:
            raise failed

    async def _fail(self, method: str, context: CallContext, error: Exception) -> NoReturn:
        if isinstance(error, HoldfastError):
            typed = error
        else:
            incident = self._entropy.token(4).hex()
            self._events.emit("call_failed", method=method, incident=incident, error=repr(error))
            typed = InternalError("the node made a mistake", hint=f"see incident {incident} in its log")
        await context.abort(status_of(typed), one_line(typed), ((DETAIL_KEY, encode_detail(typed)),))


class MakeHandler(Protocol):
    """gRPC's four constructors of handlers, as seen by who does not care about the messages."""

    def __call__(
        self, behavior: object, *, request_deserializer: object, response_serializer: object
    ) -> object: ...


def _kind_of(handler: grpc.RpcMethodHandler[Q, A]) -> tuple[MakeHandler, object]:
    """The constructor that makes such a handler, and what it wraps."""
    kinds: tuple[tuple[object, object], ...] = (
        (handler.unary_unary, grpc.unary_unary_rpc_method_handler),
        (handler.unary_stream, grpc.unary_stream_rpc_method_handler),
        (handler.stream_unary, grpc.stream_unary_rpc_method_handler),
        (handler.stream_stream, grpc.stream_stream_rpc_method_handler),
    )
    inner, make = next((inner, make) for inner, make in kinds if inner is not None)
    return cast("MakeHandler", make), inner
