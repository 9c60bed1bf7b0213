"""Stewards look through what was accepted since all was in order, and through nothing else."""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import pytest

from holdfast_node.core.api import Margin
from holdfast_node.core.errors import Unavailable
from holdfast_node.core.ids import RESERVED_BUCKET
from holdfast_node.core.messages import Accept, CopyRegisters, Reply, Request
from holdfast_node.services import compaction, wards
from holdfast_node.services.cursors import NOTED_S
from holdfast_node.services.datapath import KeyPlace
from holdfast_node.services.dispatcher import Caller
from holdfast_node.services.log.store_time import TIME_RECORD_EVERY_S
from holdfast_node.services.wards import RECOUNT_S, RELOOK_S, UNKNOWN, Found, Looker, Ward
from tests.support.small_clusters import Serve, SmallCluster, pass_time, payload_of, run_story

KEYS = [b"key %d" % number for number in range(12)]
SETTLED_S = RELOOK_S + NOTED_S + TIME_RECORD_EVERY_S + 60


NOT_MUCH = Margin((("node", 1),), full=False)
NOTHING_LEFT = Margin((("node", 0),), full=False)


def ward() -> Ward:
    begun = Ward(0, 0, generation=1, healed_epoch=1, settled=40)
    begun.begin(1)
    return begun


def test_a_look_goes_from_where_all_was_in_order_to_the_end() -> None:
    looking = ward()
    assert (looking.full, looking.after) == (False, 40)
    looking.after = 90
    looking.end(now_s=1.0)
    assert (looking.reviewed, looking.settled) == (90, 40)


def test_what_there_was_no_room_for_is_found_again() -> None:
    looking = ward()
    looking.forget(NOT_MUCH, now_s=0.5)
    looking.after = 90
    looking.end(now_s=1.0)
    assert looking.reviewed == 0
    assert not looking.due(1, 2.0)
    assert looking.due(1, 1.0 + RECOUNT_S)
    looking.forget(NOTHING_LEFT, now_s=2.0)
    assert not looking.due(1, 3.0), "in its turn, however often something is forgotten"
    assert looking.missed == NOTHING_LEFT
    looking.begin(1)
    assert looking.missed == NOTHING_LEFT, "until a look has ended"
    looking.end(now_s=20.0)
    assert looking.missed is None


def test_what_there_was_no_room_for_is_looked_for_among_all_keys_again() -> None:
    full = Ward(0, 0, generation=1, healed_epoch=0)
    full.begin(3)
    full.forget(NOT_MUCH, now_s=0.5)
    full.end(now_s=1.0)
    assert (full.full, full.looked_epoch) == (True, 0)
    assert not full.due(3, 2.0), "in its turn"
    full.begin(3)
    full.conclusive = False
    full.end(now_s=20.0)
    assert full.missed == NOT_MUCH, "it may wait for a store that did not say what it holds"


def test_a_look_is_not_begun_anew_for_whoever_comes_back() -> None:
    """A node that came and went every minute kept stewards from ever finding what ailed among their last keys."""
    full = Ward(0, 0, generation=1, healed_epoch=0, settled=40)
    full.begin(3)
    full.cursor = RESERVED_BUCKET, b"half way"
    full.look_again()
    assert full.due(3, 1.0)
    assert (full.looking, full.cursor) == (True, (RESERVED_BUCKET, b"half way"))
    full.end(now_s=1.0)
    assert (full.looked_epoch, full.seen) == (3, False), "what was missed is in the own feed"
    assert full.due(3, 1.0)
    full.begin(3)
    assert (full.full, full.after) == (False, 40)
    full.after = 50
    full.look_again()
    assert full.after == 50, "what is missed comes to the end of the feed"
    full.end(now_s=2.0)
    assert (full.looking, full.seen) == (False, True)
    assert not full.due(3, 3.0)


def test_what_is_written_in_the_former_code_behind_a_look_is_looked_for_again() -> None:
    """By somebody who began before the pool's code changed. What a look had passed by then is not counted in it."""
    looking = Ward(0, 0, generation=1, healed_epoch=9)
    looking.begin(9, recoding=True)
    assert looking.full, "nobody has counted yet"
    looking.written_in_former_code(now_s=0.5)
    looking.end(now_s=1.0)
    assert looking.former == UNKNOWN
    assert looking.due(9, 1.0 + RECOUNT_S)
    looking.begin(9, recoding=True)
    looking.met_former(2)
    looking.end(now_s=20.0)
    assert looking.former == 2
    assert looking.due(9, 20.0 + RECOUNT_S)
    looking.begin(9, recoding=True)
    looking.end(now_s=40.0)
    assert looking.former == 0
    assert not looking.due(9, 40.0 + RECOUNT_S)
    looking.begin(9, recoding=True)
    assert not looking.full, "nothing is left"


class Counted:
    """Keys that stewards looked at in their own registers."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.keys: list[bytes] = []
        usual = Looker._found

        async def counted(looker: Looker, place: KeyPlace) -> Found:
            self.keys.append(place.key)
            return await usual(looker, place)

        monkeypatch.setattr(wards.Looker, "_found", counted)


def test_whoever_comes_back_is_no_reason_to_look_at_what_nobody_touched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    counted = Counted(monkeypatch)
    monkeypatch.setattr(compaction, "GARBAGE_MIN", 2.0)  # a copy is a new place in the feed

    async def story(small: SmallCluster) -> None:
        for key in KEYS:
            _ = await small.put(key, payload_of(3000))
        await pass_time(SETTLED_S)
        assert set(counted.keys) >= set(KEYS), "each was looked at once"
        for name in ("n1", "n4"):
            await small.cluster.stop(small.machine(name))
        await pass_time(5)
        await pass_time(SETTLED_S)  # the others have taken over
        changed = KEYS[:2]
        for key in changed:
            _ = await small.put(key, payload_of(4000), at="n2")
        counted.keys.clear()
        small.watch(CopyRegisters)
        for name in ("n1", "n4"):
            await small.cluster.boot(small.machine(name))
        await pass_time(60)
        assert (await small.at("n1", lambda node: node.admin.status())).healthy
        assert set(counted.keys) <= set(changed)
        assert set(counted.keys)
        assert small.served[CopyRegisters] == 0, "no map has changed"

    run_story(story)


def test_a_kept_version_that_the_steward_missed_is_not_passed_over() -> None:
    """It accepted the next version, which keeps that one, and has no manifest of it: nobody knows whether it ails."""

    async def story(small: SmallCluster) -> None:
        await pass_time(10)
        small.stop_following()
        steward = (await small.homes(KEYS[0]))[0]
        deaf = True

        async def hears_later(usual: Serve, caller: Caller, asked: Request) -> Reply:
            if deaf:
                raise Unavailable("planted")
            return await usual(caller, asked)

        small.twist(steward, Accept, hears_later)
        other = next(name for name in ("n1", "n2") if name != steward)
        _ = await small.put(KEYS[0], payload_of(3000), at=other)
        deaf = False
        _ = await small.put(KEYS[0], payload_of(3000), at=other)
        node = small.node(steward)
        bucket, pool = await small.bucket()
        topology = node.cartographer.require()
        looking = Ward(pool, topology.key_partition(pool, bucket.id, KEYS[0]), generation=1, healed_epoch=9)
        looking.begin(1)
        ailing, _ = await small.at(
            steward, lambda node: node.healer._looker._look_at_own(topology, looking, node.healer._up)
        )
        assert KEYS[0] in [each.key for each in ailing]

    run_story(story)


def test_what_ails_is_found_again_after_a_restart() -> None:
    async def story(small: SmallCluster) -> None:
        _ = await small.put(KEYS[0], payload_of(3000))
        await pass_time(SETTLED_S)
        for name in ("n5", "n6"):
            await small.cluster.stop(small.machine(name))
        await pass_time(5)
        for key in KEYS:
            _ = await small.put(key, payload_of(3000))
        await pass_time(SETTLED_S)
        for name in ("n1", "n2", "n3", "n4"):
            await small.cluster.stop(small.machine(name))
            await small.cluster.boot(small.machine(name))
        await pass_time(60)
        told = [small.node(name).healer.health() for name in ("n1", "n2", "n3", "n4")]
        assert sum(row.exceptions for rows in told for row in rows) == len(KEYS)

    run_story(story)
