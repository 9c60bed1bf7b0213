"""One ballot of one proposal, over the links: sends what the machine says and feeds it what comes back.

Knows nothing of retries, queues or maps. One future per ballot, no task per message; answers that come
after the machine has come to rest are dropped by it.
"""

from __future__ import annotations

import asyncio
from typing import Final

from holdfast_node.core.errors import InternalError
from holdfast_node.core.head import Ballot
from holdfast_node.core.messages import Accept, AcceptReply, Prepare, PrepareReply
from holdfast_node.core.operation import Operation
from holdfast_node.core.proposal import (
    Again,
    Effect,
    Failed,
    Finished,
    Linger,
    Proposal,
    SendAccept,
    SendPrepare,
)
from holdfast_node.ports import Answer, Answered, Links
from holdfast_node.services.fanout import failing
from holdfast_node.services.places import Place

PREPARE_TIMEOUT_S: Final = 2.0
ACCEPT_TIMEOUT_S: Final = 2.0
LINGER_S: Final = 0.02
"""How long a quorum of promises that disagree waits for the others: the price of a write-back is two
rounds."""

Rest = Finished | Failed | Again


class Round:
    """Use once per ballot: `run` with the effects of `Proposal.begin` or `resume`."""

    def __init__(self, links: Links, place: Place, proposal: Proposal, operation: Operation) -> None:
        self._links: Final = links
        self._place: Final = place
        self._proposal: Final = proposal
        self._operation: Final = operation
        self._rest: asyncio.Future[Rest] = asyncio.get_running_loop().create_future()

    async def run(self, effects: list[Effect]) -> Rest:
        """Ends within the timeouts of a prepare and an accept: each request gets exactly one answer. Raises what an
        answer could not be taken in for; whatever was sent is on its way then.

        When this is cancelled nothing is sent any more, whatever answers still come: the caller then looks at
        `accept_sent` and may drop what an accept would have named.
        """
        self._perform(effects)
        return await self._rest

    def _perform(self, effects: list[Effect]) -> None:
        for effect in effects:
            if self._rest.done():
                return
            if isinstance(effect, SendPrepare):
                self._prepare(effect.ballot)
            elif isinstance(effect, SendAccept):
                self._accept(effect)
            elif isinstance(effect, Linger):
                overdue = failing(self._rest, self._overdue)
                asyncio.get_running_loop().call_later(LINGER_S, overdue, effect.ballot)
            else:
                self._rest.set_result(effect)

    def _prepare(self, ballot: Ballot) -> None:
        place = self._place

        def done(answer: Answer) -> None:
            if not isinstance(answer, Answered):
                self._perform(self._proposal.not_promised(ballot, answer.store, answer.error))
            elif isinstance(answer.reply, PrepareReply):
                self._perform(self._proposal.promised(ballot, answer.store, answer.reply))
            else:
                wrong = InternalError(f"a prepare was answered with {type(answer.reply).__name__}")
                self._perform(self._proposal.not_promised(ballot, answer.store, wrong))

        asked = self._operation
        request = Prepare(place.scope, place.bucket, place.key, ballot, asked.stamp, asked.background)
        for store in place.voters:
            self._links.send(store, request, timeout_s=PREPARE_TIMEOUT_S, done=failing(self._rest, done))

    def _accept(self, effect: SendAccept) -> None:
        place, ballot = self._place, effect.ballot

        def done(answer: Answer) -> None:
            if not isinstance(answer, Answered):
                self._perform(self._proposal.not_accepted(ballot, answer.store, answer.error))
            elif isinstance(answer.reply, AcceptReply):
                self._perform(self._proposal.accepted(ballot, answer.store, answer.reply))
            else:
                wrong = InternalError(f"an accept was answered with {type(answer.reply).__name__}")
                self._perform(self._proposal.not_accepted(ballot, answer.store, wrong))

        stamp = self._operation.stamp
        request = Accept(place.scope, place.bucket, place.key, ballot, stamp, effect.head, effect.head_hash)
        for store in place.homes:
            self._links.send(store, request, timeout_s=ACCEPT_TIMEOUT_S, done=failing(self._rest, done))

    def _overdue(self, ballot: Ballot) -> None:
        self._perform(self._proposal.overdue(ballot))
