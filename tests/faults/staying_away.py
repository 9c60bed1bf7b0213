"""A node dies under load and nobody comes: others take over what was its, and then two more may go. It comes back."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Final

from holdfast.testing import LocalCluster
from tests.faults.scenarios import HEAL_LIMIT_S, Report, at_least
from tests.faults.support.wait import until
from tests.faults.workload import MIB, Load

AWAY_S: Final = 8
CODE: Final = "rs:2+2"
"""Two nodes to spare: three of six are dead at the end, one after the other."""


def stay_away(root: Path, *, seed: int, largest: int = 17 * MIB) -> Report:
    """No command is given to the cluster from the first death to the return."""
    report = Report("stay-away", seed, 1)
    with LocalCluster(root, nodes=6, sans=0, code=CODE) as cluster:
        _ = cluster.stop()
        text = cluster.config_path.read_text()
        cluster.config_path.write_text(f'{text}\n[lost]\nnode_after = "{AWAY_S}s"\nseveral_after = "1h"\n')
        _ = cluster.start()
        _ = cluster.wait_healthy(HEAL_LIMIT_S)
        names = [state.node.name for state in cluster.nodes()]
        first, second, third = random.Random(seed).sample(names, 3)
        with Load(cluster.connect(), seed=seed, largest=largest) as load:
            at_least(load, 20, "before")
            for name in (first, second):
                cluster.kill(name)
                _wait_taken_over(cluster, name)
                at_least(load, 10, f"without {name}")
        cluster.kill(third)
        report.wrong += load.read_everything_back()
        _ = cluster.start()
        status = cluster.wait_healthy(HEAL_LIMIT_S)
        report.wrong += [f"{node.name} is {node.state}" for node in status.nodes if node.state != "up"]
        report.wrong += load.read_everything_back()
        report.seen = load.record.tell()
    return report


def _wait_taken_over(cluster: LocalCluster, name: str) -> None:
    def done() -> bool:
        with cluster.admin() as admin:
            status = admin.status()
            state = next(node.state for node in status.nodes if node.name == name)
            return state == "lost" and status.partitions_full == status.partitions

    until(done, HEAL_LIMIT_S, f"others to take over from {name}")
