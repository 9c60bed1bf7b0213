"""Goes through every state of a scene of `register_model`, and says how a broken promise came about."""

from __future__ import annotations

from holdfast_node.core.head import seeds_of
from tests.properties.register_invariants import Violation, check_heads, must
from tests.properties.register_model import TABLE, Scene, State, Trail, beginning, steps


def path(trail: Trail) -> str:
    lines: list[str] = []
    while trail is not None:
        trail, line = trail
        lines.append(line)
    return "\n".join(reversed(lines))


def check(scene: Scene, state: State) -> None:
    """Raises `Violation` if what the homes ever accepted, or what anybody was told, breaks a promise."""
    majority = scene.homes // 2 + 1
    votes = sorted({vote for home in state.votes for vote in home})
    must(len({counter for counter, _ in votes}) == len(votes), "two heads under one ballot")
    heads = [TABLE.heads[v[1]] for v in votes if sum(v in home for home in state.votes) >= majority]
    check_heads(heads, scene.operations, state.answers)
    if scene.forgotten is not None and scene.forgotten.fence is not None:
        for operation in scene.operations:
            if operation.base is not None and operation.base <= scene.forgotten.fence:
                named = {seed for head in heads for seed in seeds_of(head)}
                must(
                    operation.manifest is None or operation.manifest.seed_id not in named,
                    "a head names shards that were dropped behind a fence",
                )
    if state.read >= 0:
        must(state.read >= state.floor, f"read {state.read} after {state.floor} was answered")
        must(state.read == 0 or state.read in {h.version for h in heads}, "read an undecided value")


def explore(scene: Scene, *, states_max: int = 5_000_000) -> int:
    """Visit every reachable state depth first; the number of them. Raises `Violation` with the way there."""
    start = beginning(scene)
    visited = {start.key()}
    stack = [start]
    while stack:
        state = stack.pop()
        for following in steps(scene, state):
            key = following.key()
            if key in visited:
                continue
            visited.add(key)
            assert len(visited) <= states_max, "the scene is larger than planned"
            try:
                check(scene, following)
            except Violation as violation:
                raise Violation(f"{violation}\n" + path(following.trail)) from None
            stack.append(following)
    return len(visited)
