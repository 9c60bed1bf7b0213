"""One round of compaction on a store, whatever is worth it: for tests that want a log with holes."""

from __future__ import annotations

from collections.abc import Callable, Collection

from holdfast_node.services.log.compactor import Usage
from holdfast_node.services.store import Store

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
