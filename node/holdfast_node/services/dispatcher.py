"""From a peer's request to the service that answers it. Knows types and the map's epoch, not meanings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar, cast

from holdfast_node.core.errors import InternalError, Unimplemented
from holdfast_node.core.ids import NodeName, StoreId
from holdfast_node.core.messages import REPLY_TO, Reply, Request


@dataclass(frozen=True, slots=True)
class Caller:
    """The store that asks, as it introduced itself on this connection."""

    store: StoreId
    node: NodeName


Handler = Callable[[Caller, Request], Awaitable[Reply]]
Req = TypeVar("Req", bound=Request)


def handler(
    cls: type[Req], serve: Callable[[Caller, Req], Awaitable[Reply]]
) -> tuple[type[Request], Handler]:
    """One row of a service's `handlers()`: `serve` sees its own request type."""

    async def checked(caller: Caller, request: Request) -> Reply:
        if not isinstance(request, cls):
            raise InternalError(f"{type(request).__name__} was dispatched to the handler of {cls.__name__}")
        return await serve(caller, request)

    return cast("type[Request]", cls), checked


class Dispatcher:
    """A closed table: every request type has exactly one handler once `check_complete` has passed."""

    def __init__(self) -> None:
        self._handlers: dict[type[Request], Handler] = {}

    def add(self, handlers: Mapping[type[Request], Handler]) -> None:
        for cls, serve in handlers.items():
            assert cls not in self._handlers, f"two handlers for {cls.__name__}"
            self._handlers[cls] = serve

    def check_complete(self) -> None:
        missing = [cls.__name__ for cls in REPLY_TO if cls not in self._handlers]
        assert not missing, f"no handler for {missing}"

    async def handle(self, caller: Caller, request: Request) -> Reply:
        serve = self._handlers.get(type(request))
        if serve is None:
            raise Unimplemented(f"this node does not answer {type(request).__name__}")
        return await serve(caller, request)
