"""A commit that was handed to a steward who fell silent may still be carried out: nothing of it may be dropped."""

from __future__ import annotations

import asyncio
from contextlib import suppress

import pytest

from holdfast_node.core.errors import OutcomeUnknown
from holdfast_node.services.registers import Attempt
from tests.properties.register_bench import Bench, Member, registers
from tests.properties.test_register_services import BUCKET, content, on, play, put


def contended(member: Member) -> Attempt:
    """An attempt that met a higher ballot: its commit goes to the steward."""
    attempt = registers(member).attempt(0, BUCKET, b"k", 1)
    attempt.refused = True
    return attempt


def deafen(bench: Bench, name: str) -> None:
    """What it asks for is done, and it never hears so."""
    for other in bench.members:
        if other != name:
            bench.network.block(f"{other}:1", f"{name}:1")


def test_a_failed_commit_keeps_its_shards_for_the_steward() -> None:
    async def story(bench: Bench) -> None:
        deafen(bench, "n1")

        async def fails(member: Member) -> bool:
            attempt = contended(member)
            with pytest.raises(OutcomeUnknown):
                await registers(member).commit(attempt, put("one", base=attempt.base))
            return attempt.accept_sent

        assert await on(bench, 1, fails)
        assert await content(bench, 0, b"k") == "one", "the steward did carry it out"

    play(story)


def test_a_cancelled_commit_keeps_its_shards_for_the_steward() -> None:
    async def story(bench: Bench) -> None:
        deafen(bench, "n1")

        async def is_cancelled(member: Member) -> bool:
            attempt = contended(member)
            commit = registers(member).commit(attempt, put("one", base=attempt.base))
            task = asyncio.get_running_loop().create_task(commit)
            await bench.later(0.3)
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
            return attempt.accept_sent

        assert await on(bench, 1, is_cancelled)
        assert await content(bench, 0, b"k") == "one", "the steward did carry it out"

    play(story)
