"""Bugs planted on purpose: each undoes one rule, and enough worlds must notice.

`python -m tests.sim.planted [NAME...] [--seeds N]` tries them and says after how many worlds each was found. A plant
is a context in which one function of the product is replaced; nothing on disk changes.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Final

from holdfast_node.core import acceptance, checksums, proposal, quorum, register, topology
from holdfast_node.core.head import ABSENT_HEAD, Head, HeadKind
from holdfast_node.core.ids import Digest
from holdfast_node.core.messages import Prepare, PrepareReply
from holdfast_node.core.operation import Operation, OperationKind
from holdfast_node.core.topology import Topology
from holdfast_node.services import put
from holdfast_node.services.acceptor import Acceptor
from tests.sim.disk import SimDisk
from tests.sim.nemesis import Trouble
from tests.sim.world import Outcome, Plan, run_world

Patch = tuple[object, str, Callable[[Any], Any]]
"""Where, which name, and what becomes of the function that is there."""


@dataclass(frozen=True)
class Plant:
    """`trouble` is what brings this bug out; worlds of other kinds are not asked."""

    name: str
    says: str
    patches: Callable[[], Sequence[Patch]]
    trouble: Trouble
    clients: int = 4
    keys: int = 2
    rounds: int = 10


@contextmanager
def planted(plant: Plant) -> Generator[None]:
    done: list[tuple[object, str, object]] = []
    try:
        for where, name, change in plant.patches():
            before = getattr(where, name, None)
            setattr(where, name, change(before))
            done.append((where, name, before))
        yield
    finally:
        for where, name, before in reversed(done):
            setattr(where, name, before)


def world_with(plant: Plant, seed: int) -> Outcome:
    drawn = Plan.drawn(seed)
    plan = replace(
        drawn,
        trouble=plant.trouble,
        clients=plant.clients,
        keys=plant.keys,
        rounds=plant.rounds,
        patience_s=120.0,
    )
    with planted(plant):
        return run_world(seed, plan)


def worlds_until_found(plant: Plant, seeds_max: int) -> tuple[int, Outcome | None]:
    """How many worlds it took, and the one that went wrong. A cluster that is late to converge is no proof."""
    for seed in range(seeds_max):
        outcome = world_with(plant, seed)
        outcome.violations = [said for said in outcome.violations if not said.startswith("NOT CONVERGED")]
        if outcome.violations:
            return seed + 1, outcome
    return seeds_max, None


def _always(value: object) -> Callable[[object], Callable[..., object]]:
    """Whatever it was, it is now a function that returns `value`."""

    def constant(*about: object, **more: object) -> object:
        del about, more
        return value

    return lambda _: constant


def _everywhere(function: object, change: Callable[[Any], Any]) -> list[Patch]:
    """Every name in the product that this function goes by."""
    modules = [module for name, module in sorted(sys.modules.items()) if name.startswith("holdfast_node")]
    return [
        (module, name, change)
        for module in modules
        for name, value in sorted(vars(module).items())
        if value is function
    ]


# --- the bugs -------------------------------------------------------------------------------------------------


def _no_sync() -> Sequence[Patch]:
    def change(_: object) -> Callable[..., Awaitable[None]]:
        async def commit(disk: SimDisk, name: str, offset: int, buffers: Sequence[bytes]) -> None:
            disk.platter.files[name].write(offset, b"".join(buffers))
            await asyncio.sleep(0)

        return commit

    return [(SimDisk, "commit", change)]


def _one_less_than_a_majority() -> Sequence[Patch]:
    def change(majority: Callable[[int], int]) -> Callable[[int], int]:
        return lambda homes: max(1, majority(homes) - 1)

    return [*_everywhere(quorum.majority, change), *_everywhere(topology.majority, change)]


def _incomplete_is_complete() -> Sequence[Patch]:
    return [(proposal.Proposal, "_shown", _always(True))]


def _dedupe(recent: Callable[[Head], Head]) -> Sequence[Patch]:
    def change(decide: Callable[..., register.Verdict]) -> Callable[..., register.Verdict]:
        def forgetful(current: Head, operation: Operation, facts: register.Facts) -> register.Verdict:
            return decide(recent(current), operation, facts)

        return forgetful

    return [(proposal, "decide", change)]


def _no_dedupe() -> Sequence[Patch]:
    return _dedupe(lambda head: replace(head, recent=()))


def _dedupe_by_last_only() -> Sequence[Patch]:
    return _dedupe(lambda head: replace(head, recent=head.recent[-1:]))


def _learners_vote() -> Sequence[Patch]:
    def everybody(_: object) -> Callable[..., object]:
        def voting_homes(self: Topology, pool: int, partition: int) -> object:
            return self.entry(pool, partition).homes

        return voting_homes

    def gate(refusal: Callable[..., str]) -> Callable[..., str]:
        def open_to_learners(*about: object) -> str:
            said = refusal(*about)
            return "" if "learning" in said else said

        return open_to_learners

    return [(Topology, "voting_homes", everybody), (Acceptor, "_voting_refusal", gate)]


def _promise_before_durable() -> Sequence[Patch]:
    def change(_: object) -> Callable[..., Awaitable[PrepareReply]]:
        async def prepare(self: Any, caller: object, request: Prepare) -> PrepareReply:
            del caller
            key = (request.bucket, request.key)
            async with self._turns.turn(key):
                standing = self._standing_of_key(request)
                promise = acceptance.prepare(await self._newest(key), standing, request)
                self._write(key, promise.record)
            reply: PrepareReply = self._spoken(request, promise)
            return reply

        return prepare

    return [(Acceptor, "_prepare", change)]


def _any_generation() -> Sequence[Patch]:
    return _everywhere(acceptance.check_generation, _always(None))


def _no_cell_checksum() -> Sequence[Patch]:
    return _everywhere(checksums.cell_checksum, _always(Digest(bytes(16))))


def _forgotten_tombstone() -> Sequence[Patch]:
    def change(apply: Callable[..., register.Verdict]) -> Callable[..., register.Verdict]:
        def forget(current: Head, operation: Operation, facts: register.Facts) -> register.Verdict:
            if operation.kind is OperationKind.DELETE and current.kind is HeadKind.BLOB:
                return register.Change(ABSENT_HEAD)
            return apply(current, operation, facts)

        return forget

    return [(register, "_apply", change)]


def _drop_after_failure() -> Sequence[Patch]:
    """A coordinator that drops what it staged whenever its commit failed, accept sent or not."""

    def change(_: object) -> Callable[..., None]:
        def drop(staged: Any) -> None:
            staged.trail.drop()

        return drop

    return _everywhere(put.drop_unless_accepted, change)


def _accept_anything() -> Sequence[Patch]:
    return [(acceptance, "_bar", _always(None))]


def _retries_mint_new_requests() -> Sequence[Patch]:
    def change(decide: Callable[..., register.Verdict]) -> Callable[..., register.Verdict]:
        def amnesia(current: Head, operation: Operation, facts: register.Facts) -> register.Verdict:
            verdict = decide(current, operation, facts)
            if isinstance(verdict, register.Change):
                return register.Change(replace(verdict.head, recent=()))
            return verdict

        return amnesia

    return [(proposal, "decide", change)]


_CRASHES: Final = Trouble(crash=True, power_cut=True, all_at_once=True)
_MESSAGES: Final = Trouble(messages=True, partition=True, crash=True, pause=True)
_LOSSES: Final = Trouble(wipe=True, messages=True, pause=True)

PLANTS: Final = (
    Plant("no-sync", "a commit is acknowledged before it is durable", _no_sync, _CRASHES),
    Plant("majority-1", "one less than a majority decides", _one_less_than_a_majority, _MESSAGES),
    Plant("skip-r4", "a head is changed before it is complete", _incomplete_is_complete, _MESSAGES),
    Plant("skip-r5", "a request is not looked for in recent", _no_dedupe, _MESSAGES),
    Plant("dedupe-last", "only the last applied write is remembered", _dedupe_by_last_only, _MESSAGES),
    Plant("no-recent", "applied writes are not written down", _retries_mint_new_requests, _MESSAGES),
    Plant("learner-votes", "a learner votes at once", _learners_vote, _LOSSES),
    Plant("weak-promise", "a promise is given before it is durable", _promise_before_durable, _MESSAGES),
    Plant("any-generation", "messages of any generation count", _any_generation, _LOSSES),
    Plant("no-cell-checksum", "cells are not checked", _no_cell_checksum, Trouble(rot=True)),
    Plant("no-tombstone", "a delete forgets the key", _forgotten_tombstone, _MESSAGES),
    Plant("drop-after-failure", "staged shards are dropped after a timeout", _drop_after_failure, _MESSAGES),
    Plant("accept-anything", "an accept is taken whatever was promised", _accept_anything, _MESSAGES),
)  # fmt: skip
QUICK: Final = ("no-sync", "majority-1", "skip-r5", "accept-anything")
"""Found within a few worlds: tried with every run of the tests."""


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim.planted", description=__doc__)
    parser.add_argument("names", nargs="*", help="which; all if none")
    parser.add_argument("--seeds", type=int, default=300)
    parser.add_argument("--show", action="store_true", help="print what was found")
    arguments = parser.parse_args()
    missed: list[str] = []
    for plant in PLANTS:
        if arguments.names and plant.name not in arguments.names:
            continue
        began = time.monotonic()
        count, outcome = worlds_until_found(plant, arguments.seeds)
        said = f"found in world {count}" if outcome else f"NOT FOUND in {count} worlds"
        print(f"{plant.name:20} {said} ({time.monotonic() - began:.0f} s): {plant.says}", flush=True)
        if outcome is None:
            missed.append(plant.name)
        elif arguments.show:
            print("\n".join(outcome.violations)[:2000])
        else:
            print(f"{'':20} {outcome.violations[0].splitlines()[0][:160]}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main())
