"""One ballot of one map instance, from the proposer's side: promises, then accepts, from a quorum of voters.

Carries forward what a voter had accepted already. Refuses to know what a map means, who tries again and when.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from holdfast_node.core.cluster_map import ClusterMap
from holdfast_node.core.errors import DeadlineExceeded, Evidence, MapConflict
from holdfast_node.core.head import Ballot
from holdfast_node.core.ids import ClusterId, StoreId
from holdfast_node.core.messages import MapAccept, MapAcceptReply, MapPrepare, MapPrepareReply
from holdfast_node.core.quorum import majority
from holdfast_node.core.records import Superblock
from holdfast_node.ports import Answer, Answered, Failed, Links
from holdfast_node.services.ballots import Ballots
from holdfast_node.services.fanout import Answers, gather, replies

VOTE_TIMEOUT_S: Final = 1.0
"""A vote is one synced record; who needs longer is asked again."""
ASKED_MAX: Final = 3
"""How often a voter that does not answer is asked in one ballot. A lost message costs a question, not the promises of
all the others."""


@dataclass(frozen=True, slots=True)
class Round:
    """How a ballot ended. `decided` is the encoded map a quorum accepted, ours or the one found half
    accepted.

    `newer` are voters who said that this instance is over; `rivals` whether another proposer was in the way.
    """

    decided: bytes = b""
    found: bytes = b""
    newer: tuple[StoreId, ...] = ()
    rivals: bool = False
    evidence: tuple[Evidence, ...] = ()


@dataclass(frozen=True, slots=True)
class Instance:
    """Which epoch is decided, by whom, and how many of them it takes."""

    cluster_id: ClusterId
    epoch: int
    voters: tuple[StoreId, ...]
    quorum: int
    names: Mapping[StoreId, str]


class MapProposer:
    """Ballots of this store, each used once: its boot number and a counter make them unique for ever."""

    def __init__(self, superblock: Superblock, links: Links) -> None:
        self._links = links
        self._ballots = Ballots(superblock.store, superblock.boot)

    async def run(self, current: ClusterMap, proposed: bytes, accept_sent: Callable[[], None]) -> Round:
        """A ballot in the instance after `current`, by a majority of its voters."""
        instance = Instance(
            current.cluster_id,
            current.epoch + 1,
            current.voters,
            majority(len(current.voters)),
            {node.store: node.name for node in current.nodes},
        )
        return await self.ballot(instance, lambda found: found or proposed, accept_sent)

    async def ballot(
        self, instance: Instance, choose: Callable[[bytes], bytes], accept_sent: Callable[[], None]
    ) -> Round:
        """`choose` gets the highest map found accepted (empty if none) and returns the one to propose."""
        ballot = self._ballots.mint(instance.epoch)
        prepare = MapPrepare(instance.cluster_id, instance.epoch, ballot)
        answers = await self._ask(instance, prepare, _promised)
        promises = {s: r for s, r in replies(answers, MapPrepareReply).items() if r.promised}
        if len(promises) < instance.quorum:
            return self._lost(instance, answers)
        shown = [(reply.accepted, reply.map) for reply in promises.values() if reply.accepted is not None]
        found = max(shown, key=lambda pair: pair[0])[1] if shown else b""
        value = choose(found)
        accept_sent()
        accept = MapAccept(instance.cluster_id, instance.epoch, ballot, value)
        answers = await self._ask(instance, accept, _accepted)
        votes = [r for r in replies(answers, MapAcceptReply).values() if r.accepted]
        if len(votes) < instance.quorum:
            return self._lost(instance, answers)
        return Round(decided=value, found=found)

    async def _ask(
        self, instance: Instance, request: MapPrepare | MapAccept, yes: Callable[[Answer], bool]
    ) -> dict[StoreId, Answer]:
        def enough(answers: Answers) -> bool:
            agreed = sum(1 for answer in answers.values() if yes(answer))
            refused = sum(1 for answer in answers.values() if not yes(answer) and not _is_late(answer))
            return agreed >= instance.quorum or refused > len(instance.voters) - instance.quorum

        answers: dict[StoreId, Answer] = {}
        silent = list(instance.voters)

        def enough_with(more: Answers) -> bool:
            return enough({**answers, **more})

        for _ in range(ASKED_MAX):
            requests = dict.fromkeys(silent, request)
            answers |= await gather(self._links, requests, timeout_s=VOTE_TIMEOUT_S, enough=enough_with)
            silent = [store for store, answer in answers.items() if _is_late(answer)]
            if enough(answers) or not silent:
                break
        return answers

    def _lost(self, instance: Instance, answers: Answers) -> Round:
        higher = [ballot for answer in answers.values() if (ballot := _higher(answer)) is not None]
        for rival in higher:
            self._ballots.observe(rival.counter)
        newer = tuple(
            store
            for store, answer in sorted(answers.items())
            if not isinstance(answer, Answered) and isinstance(answer.error, MapConflict)
        )
        return Round(newer=newer, rivals=bool(higher or newer), evidence=tuple(_evidence(instance, answers)))


def _is_late(answer: Answer) -> bool:
    """The question or the answer may be lost: asking again may help."""
    return isinstance(answer, Failed) and isinstance(answer.error, DeadlineExceeded)


def _promised(answer: Answer) -> bool:
    return (
        isinstance(answer, Answered) and isinstance(answer.reply, MapPrepareReply) and answer.reply.promised
    )


def _accepted(answer: Answer) -> bool:
    return isinstance(answer, Answered) and isinstance(answer.reply, MapAcceptReply) and answer.reply.accepted


def _higher(answer: Answer) -> Ballot | None:
    if isinstance(answer, Answered) and isinstance(answer.reply, MapPrepareReply | MapAcceptReply):
        return answer.reply.higher
    return None


def _evidence(instance: Instance, answers: Answers) -> Iterable[Evidence]:
    for store in instance.voters:
        who = instance.names.get(store, store.hex()[:8])
        answer = answers.get(store)
        if answer is None:
            yield Evidence(who, "had not answered yet")
        elif not isinstance(answer, Answered):
            yield Evidence(who, answer.error.message)
        elif _promised(answer) or _accepted(answer):
            yield Evidence(who, "agreed")
        else:
            yield Evidence(who, "promised a rival proposer")
