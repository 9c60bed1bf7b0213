"""Rules of the product undone for as long as one story is played: which function, and what becomes of it.

Nothing on disk changes. What a removal should look like in a transcript is said where it is used.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace
from typing import Any

from holdfast_node.core import checksums, proposal, quorum, register
from holdfast_node.core.head import Head
from holdfast_node.core.ids import Digest
from holdfast_node.core.operation import Operation
from holdfast_node.core.topology import Topology
from holdfast_node.services import put
from holdfast_node.services.standings import Standings
from tests.sim.disk import SimDisk

Patch = tuple[object, str, Callable[[Any], Any]]
"""Where, which name, and what becomes of the function that is there."""


def everywhere(function: object, change: Callable[[Any], Any]) -> Sequence[Patch]:
    """By whatever name the product, or a register story's homes, know this function."""
    known = [
        module
        for name, module in sorted(sys.modules.items())
        if name.startswith(("holdfast_node", "tests.stories", "tests.unit.test_register_proposal"))
    ]
    return [
        (module, name, change)
        for module in known
        for name, value in sorted(vars(module).items())
        if value is function
    ]


def always(value: object) -> Callable[[object], Callable[..., object]]:
    def constant(*about: object, **more: object) -> object:
        del about, more
        return value

    return lambda _: constant


def no_sync() -> Sequence[Patch]:
    def change(_: object) -> Callable[..., Awaitable[None]]:
        async def commit(disk: SimDisk, name: str, offset: int, buffers: Sequence[bytes]) -> None:
            disk.platter.files[name].write(offset, b"".join(buffers))
            await asyncio.sleep(0)

        return commit

    return [(SimDisk, "commit", change)]


def one_less_than_a_majority() -> Sequence[Patch]:
    def change(majority: Callable[[int], int]) -> Callable[[int], int]:
        return lambda homes: max(1, majority(homes) - 1)

    return everywhere(quorum.majority, change)


def incomplete_is_complete() -> Sequence[Patch]:
    return [(proposal.Proposal, "_shown", always(True))]


def _dedupe(recent: Callable[[Head], Head]) -> Sequence[Patch]:
    def change(decide: Callable[..., register.Verdict]) -> Callable[..., register.Verdict]:
        def forgetful(current: Head, operation: Operation, facts: register.Facts) -> register.Verdict:
            return decide(recent(current), operation, facts)

        return forgetful

    return [(proposal, "decide", change)]


def no_dedupe() -> Sequence[Patch]:
    return _dedupe(lambda head: replace(head, recent=()))


def learners_vote() -> Sequence[Patch]:
    def everybody(_: object) -> Callable[..., object]:
        def voting_homes(self: Topology, pool: int, partition: int) -> object:
            return self.entry(pool, partition).homes

        return voting_homes

    def gate(refusal: Callable[..., str]) -> Callable[..., str]:
        def open_to_learners(*about: object) -> str:
            said = refusal(*about)
            return "" if "learning" in said else said

        return open_to_learners

    return [(Topology, "voting_homes", everybody), (Standings, "_voting_refusal", gate)]


def no_cell_checksum() -> Sequence[Patch]:
    return everywhere(checksums.cell_checksum, always(Digest(bytes(16))))


def drop_after_failure() -> Sequence[Patch]:
    """A coordinator that drops what it staged whenever its commit failed, accept sent or not."""

    def change(_: object) -> Callable[..., None]:
        def drop(staged: Any) -> None:
            staged.trail.drop()

        return drop

    return everywhere(put.drop_unless_accepted, change)
