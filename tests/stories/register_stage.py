"""Plays a register story: a text file of commands, each followed by what the real rules answered.

    > homes 3                       fresh homes
    > p1 put u1 [if-absent] [if-version=N] [blob=X] [base=N] [stamp=N]
    > p1 delete u2 | p1 settle | p1 fence N
    > p1 begins 5                   a new ballot
    > p1 prepares 0 1               ask these homes, in this order
    > p1 sends 0                    send its accept to these
    > p1 hears nothing from 1 2     their answers are lost or never came
    > p1 waits no longer            enough lingering
    > 2 is era=3 generation=2 closing not-voting=learning version-floor=8 ballot-floor=9 (only what is named changes)
    > 2 is wiped
    > read 0 1                      a one-round read of these homes
    > show                          what every home holds

Lines without `>` before the first command are prose; all others are answers and are rewritten.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from holdfast_node.core.acceptance import view
from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.head import Ballot, Head, HeadKind
from holdfast_node.core.ids import Era, StoreId
from holdfast_node.core.messages import ReadRegister
from holdfast_node.core.operation import Operation, OperationKind
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
from holdfast_node.core.quorum import Roster, Sight, agreement
from tests.properties.register_samples import BUCKET, CODEC, KEY, ballot, delete, put, request, store
from tests.unit.test_register_proposal import Homes


class Stage:
    """One story's homes and proposers."""

    def __init__(self) -> None:
        self._homes = Homes(3)
        self._proposers: dict[str, Proposal] = {}
        self._operations: dict[str, Operation] = {}
        self._accepts: dict[str, SendAccept] = {}

    def play(self, command: str) -> list[str]:
        """The answers to one command."""
        words = command.split()
        if words[0] == "homes":
            self._homes = Homes(int(words[1]))
            return []
        if words[0] == "show":
            return [self._shown(at) for at in range(len(self._homes.records))]
        if words[0] == "read":
            return [self._read([int(word) for word in words[1:]])]
        if words[1] == "is":
            return self._becomes(int(words[0]), words[2:])
        return self._proposer(words[0], words[1], words[2:])

    def _proposer(self, name: str, verb: str, rest: list[str]) -> list[str]:
        if verb in _OPERATIONS:
            self._operations[name] = _OPERATIONS[verb](rest)
            self._proposers[name] = Proposal(self._operations[name], CODEC)
            return []
        proposal, homes = self._proposers[name], [int(word) for word in rest if word.isdigit()]
        if verb == "begins":
            made = replace(ballot(homes[0], int(name[1:])), generation=self._homes.scope.generation)
            return self._told(name, proposal.begin(made, self._homes.roster))
        if verb == "prepares":
            return self._prepares(name, proposal, homes)
        if verb == "sends":
            return self._sends(name, proposal, homes)
        if verb == "hears":
            return self._told(name, self._homes.silence(proposal, *homes))
        assert verb == "waits", verb
        assert proposal.ballot is not None
        return self._told(name, proposal.overdue(proposal.ballot))

    def _prepares(self, name: str, proposal: Proposal, homes: list[int]) -> list[str]:
        said: list[str] = []
        for home in homes:
            before = self._homes.records[home]
            effects = self._homes.prepare(proposal, home, stamp=self._operations[name].stamp)
            promised = self._homes.records[home] != before
            said.append(f"home {home} {'promises' if promised else 'refuses'}")
            said += self._told(name, effects)
        return said

    def _sends(self, name: str, proposal: Proposal, homes: list[int]) -> list[str]:
        said, stamp = list[str](), self._operations[name].stamp
        for home in homes:
            before = self._homes.records[home]
            try:
                effects = self._homes.accept(proposal, self._accepts[name], home, stamp=stamp)
            except HoldfastError as error:
                said.append(f"home {home} refuses: {type(error).__name__}")
                continue
            accepted = self._homes.records[home] != before
            said.append(f"home {home} {'accepts' if accepted else 'refuses'}")
            said += self._told(name, effects)
        return said

    def _becomes(self, home: int, words: list[str]) -> list[str]:
        if words == ["wiped"]:
            self._homes.records[home] = None
            return []
        for word in words:
            name, _, value = word.partition("=")
            standing = self._homes.standing[home]
            if name == "closing":
                standing = replace(standing, closing=True)
            elif name == "not-voting":
                standing = replace(standing, not_voting=value)
                others = self._homes.roster.voters - {store(home)}
                voters = others if value else others | {store(home)}
                self._homes.roster = Roster(voters, self._homes.roster.quorum)
            elif name == "ballot-floor":
                standing = replace(standing, ballot_floor=ballot(int(value), 0))
            elif name == "version-floor":
                standing = replace(standing, version_floor=int(value))
            elif name == "era":
                standing = replace(standing, era=int(value))
            else:
                assert name == "generation", word
                standing = replace(standing, generation=int(value))
                self._homes.scope = replace(self._homes.scope, generation=int(value))
            self._homes.standing[home] = standing
        return []

    def _read(self, homes: list[int]) -> str:
        sights: dict[StoreId, Sight] = {}
        for home in homes:
            asked = ReadRegister(self._homes.scope, BUCKET, KEY, want_head=True, inline_bytes_max=0)
            try:
                shown = view(self._homes.records[home], self._homes.standing[home], asked)
            except HoldfastError as error:
                return f"home {home} refuses: {type(error).__name__}"
            sights[store(home)] = (shown.ballot, shown.head_hash)
        agreed = agreement(sights, self._homes.roster)
        if agreed is None:
            return "no majority agrees: poll again, then finish the value"
        holder = next(at for at in homes if store(at) in agreed.stores)
        head = self._homes.head(holder)
        return "decided: " + (_head(head) if head is not None else "absent")

    def _shown(self, home: int) -> str:
        record, head = self._homes.records[home], self._homes.head(home)
        if record is None:
            return f"home {home}: blank"
        accepted = (
            f"accepted {_ballot(record.accepted)} {_head(head)}" if head is not None else "accepted nothing"
        )
        return f"home {home}: promised {_ballot(record.promised)}, {accepted}"

    def _told(self, name: str, effects: list[Effect]) -> list[str]:
        said: list[str] = []
        for effect in effects:
            if isinstance(effect, SendAccept):
                self._accepts[name] = effect
            said.append(f"  {name}: {_effect(effect)}")
        return said


def _effect(effect: Effect) -> str:
    if isinstance(effect, SendPrepare):
        return f"prepare {_ballot(effect.ballot)}"
    if isinstance(effect, SendAccept):
        return f"accept {_ballot(effect.ballot)} {_head(CODEC.decode(Head, effect.head))}"
    if isinstance(effect, Linger):
        return "a majority promised but disagrees: wait a moment for the others"
    if isinstance(effect, Finished):
        again = ", by an earlier attempt" if effect.repeated else ""
        return f"done, version {effect.version}{again}; now {_head(effect.head)}"
    if isinstance(effect, Failed):
        return f"{type(effect.error).__name__}: {effect.error.message}"
    assert isinstance(effect, Again)
    return f"another ballot is needed ({effect.reason.value})"


def _ballot(at: Ballot | None) -> str:
    return "nothing" if at is None else f"{at.generation}.{at.counter} of p{at.store[8:9].decode()}"


def _head(head: Head | None) -> str:
    if head is None or head.kind is HeadKind.ABSENT:
        fence = f" with fence {_ballot(head.fence)}" if head is not None and head.fence is not None else ""
        return "absent" + fence
    what = "deleted" if head.manifest is None else head.manifest.blob_id.rstrip(b".").decode()
    behind = [str(entry.version) for entry in head.retained]
    fence = f" fence {_ballot(head.fence)}" if head.fence is not None else ""
    return f"v{head.version}={what}" + (f" over {','.join(behind)}" if behind else "") + fence


def _options(words: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (word.partition("=") for word in words)}


def _put(words: list[str]) -> Operation:
    options = _options(words[1:])
    operation = put(
        words[0],
        options.get("blob", ""),
        if_absent="if-absent" in options,
        if_version=int(options.get("if-version", "-1")),
    )
    base = ballot(int(options.get("base", "1")), 9)
    return replace(operation, base=base, stamp=Era(int(options.get("stamp", "1"))))


def _fence(words: list[str]) -> Operation:
    return Operation(OperationKind.FENCE, request("fence"), Era(1), base=ballot(int(words[0]), 9))


def _settle(words: list[str]) -> Operation:
    assert not words
    return Operation(OperationKind.SETTLE, request("settle"), Era(1))


_OPERATIONS: Final[dict[str, Callable[[list[str]], Operation]]] = {
    "put": _put,
    "delete": lambda words: delete(words[0]),
    "fence": _fence,
    "settle": _settle,
}


def perform(text: str) -> str:
    """The story with its answers as they are today."""
    stage, lines, begun = Stage(), list[str](), False
    for line in text.splitlines():
        if line.startswith("> "):
            begun = True
            lines += [line, *(f"  {answer}" for answer in stage.play(line[2:].split("#")[0]))]
        elif not begun or line.startswith("#") or not line.strip():
            lines.append(line)
    return "\n".join(lines) + "\n"
