"""Whether callers are being served, as seen by a home, and how long work in the background rests because of it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from holdfast_node.core.messages import Prepare, ReadRegister, Reply, Request, StageWhole
from holdfast_node.services.budget import Budget
from holdfast_node.services.dispatcher import Caller, Handler
from holdfast_node.services.tasks import Tasks

QUIET_S: Final = 1.0
"""After the last request that a caller waits for, the background has the machine to itself."""
BUSY_REST: Final = 10.0
"""Rest after a piece of work, times its length: each node of what may be one machine works a tenth of the time."""
REST_MAX_S: Final = 5.0
"""However long it took: waiting for the silent is not work, and others may wait for what comes next."""
HEAL_REST: Final = 3.0
"""The same for heal of what one more loss does not take: it matters more than other work, and less than callers."""
HEAL_REST_MAX_S: Final = 1.0
"""What becomes grave meanwhile waits so long."""


class Foreground:
    """Listens to what homes are asked on behalf of callers: reads that want a blob's bytes too, and prepares."""

    def __init__(self) -> None:
        self._loop: Final = asyncio.get_running_loop()
        self._last_s = -QUIET_S

    @property
    def busy(self) -> bool:
        return self._loop.time() < self._last_s + QUIET_S

    def rest_s(self, took_s: float) -> float:
        """As long as the work took, within bounds; much longer while callers wait."""
        return min(took_s * (BUSY_REST if self.busy else 1.0), REST_MAX_S)

    def heal_rest_s(self, took_s: float) -> float:
        """None if nobody waits."""
        return min(HEAL_REST * took_s, HEAL_REST_MAX_S) if self.busy else 0.0

    def watch(self, handlers: Mapping[type[Request], Handler]) -> dict[type[Request], Handler]:
        """The same handlers, with an ear at those that callers wait for."""
        return {cls: self._heard(serve) if cls in _LOUD else serve for cls, serve in handlers.items()}

    def _heard(self, serve: Handler) -> Handler:
        async def heard(caller: Caller, request: Request) -> Reply:
            if _is_waited_for(request):
                self._last_s = self._loop.time()
            return await serve(caller, request)

        return heard


@dataclass(frozen=True, slots=True)
class HealBounds:
    """What heal may take: memory of its own, the time that callers leave it, and tasks that end with its node."""

    repair: Budget
    foreground: Foreground
    tasks: Tasks


_LOUD: Final = frozenset({ReadRegister, Prepare, StageWhole})


def _is_waited_for(request: Request) -> bool:
    """Heal reads registers without any bytes, and stages what it makes without a promise, or in the background."""
    if isinstance(request, ReadRegister):
        return request.inline_bytes_max > 0
    prepare = request.prepare if isinstance(request, StageWhole) else request
    return isinstance(prepare, Prepare) and not prepare.background
