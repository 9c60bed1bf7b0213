"""Stores whose log grows and has holes: volumes full of one key, and a round of compaction whatever is worth it."""

from __future__ import annotations

from collections.abc import Callable, Collection

from holdfast_node.services.log.compactor import Usage
from holdfast_node.services.store import Entry, Store
from tests.support.stores import Bench, register

Choose = Callable[[tuple[Usage, ...]], Collection[int]]


def no_rest(took_s: float) -> float:
    del took_s
    return 0.0


async def give_back(store: Store, choose: Choose) -> list[int]:
    """Copy what is needed of the volumes chosen, and remove those that nothing needs then: their numbers."""
    compactor = store.compactor
    chosen = choose(await compactor.survey(rest_s=no_rest))
    start = compactor.end
    for number in chosen:
        _ = await compactor.copy(number, rest_s=no_rest)
    assert await compactor.are_whole(start, rest_s=no_rest)
    free = [
        each.number
        for each in await compactor.survey(rest_s=no_rest)
        if each.number in chosen and not each.needed
    ]
    for number in free:
        await compactor.remove(number)
    return free


async def put(store: Store, key: bytes, version: int, *, retained: tuple[int, ...] = ()) -> None:
    await store.append([Entry(register(key, version, retained=retained))])


async def overwrite(store: Store, volumes: int) -> int:
    """One key again and again, until so many volumes are full of it; its last version."""
    version, end = 0, store.compactor.end.volume + volumes
    while store.compactor.end.volume < end:
        version += 1
        await put(store, b"churn", version)
    return version


async def remove_all(store: Store, *numbers: int) -> None:
    """These volumes, whatever is worth it. They must be free of anything needed after copying."""
    assert await give_back(store, lambda _: numbers) == list(numbers)


def volumes_of(bench: Bench) -> list[str]:
    return sorted(name for name in bench.platter.files if name.startswith("volume"))
