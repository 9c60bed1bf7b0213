"""A smaller world that goes wrong as well: fewer kinds of trouble, callers, keys, rounds. And worlds as files.

A seed stands for a plan, and tells another story as the code moves on; a file keeps the plan itself.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Final

from holdfast_node.core.absence import NO_LIMIT, Patience
from tests.sim.cluster import Topology
from tests.sim.nemesis import Trouble
from tests.sim.world import Outcome, Plan, run_world

WORLDS_MAX: Final = 80
"""What a failure is worth."""


def smaller(plan: Plan) -> Iterator[Plan]:
    """Each plan with a little less in it, what saves most first."""
    for trouble in fields(Trouble):
        if getattr(plan.trouble, trouble.name):
            yield replace(plan, trouble=replace(plan.trouble, **{trouble.name: False}))
    for name, least in (("bursts", 1), ("clients", 1), ("rounds", 1), ("keys", 1)):
        value = getattr(plan, name)
        for less in sorted({least, (least + value) // 2, value - 1}):
            if least <= less < value:
                yield replace(plan, **{name: less})


def shrink(outcome: Outcome) -> Outcome:
    """The smallest world found that goes wrong, perhaps in another way. Deterministic, and bounded."""
    worlds, found = 0, outcome
    progress = True
    while progress:
        progress = False
        for plan in smaller(found.plan):
            worlds += 1
            if worlds > WORLDS_MAX:
                return found
            tried = run_world(outcome.seed, plan)
            if tried.violations:
                found, progress = tried, True
                break
    return found


def to_json(outcome: Outcome) -> str:
    """For a file in `tests/sim/seeds/`, which is replayed for ever."""
    why = outcome.violations[0].splitlines()[0] if outcome.violations else ""
    return json.dumps({"seed": outcome.seed, "why": why, "plan": asdict(outcome.plan)}, indent=1)


def read_world(file: Path) -> tuple[int, Plan]:
    """The seed and the plan of such a file."""
    content = json.loads(file.read_text())
    seed = int(content["seed"])
    if "plan" not in content:
        return seed, Plan.drawn(seed)
    plan = dict(content["plan"])
    topology = dict(plan.pop("topology"))
    topology["sans"] = tuple(topology["sans"])
    topology["patience"] = Patience(**topology.pop("patience", asdict(NO_LIMIT)))
    return seed, Plan(topology=Topology(**topology), trouble=Trouble(**plan.pop("trouble")), **plan)
