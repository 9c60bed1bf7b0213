"""A node dies under load, and then another's disk, and nobody comes: others take over what was theirs, and one more may
go. All come back."""

from __future__ import annotations

import random
import resource
from pathlib import Path
from typing import Final

from holdfast.testing import LocalCluster
from tests.faults.scenarios import HEAL_LIMIT_S, Report, at_least
from tests.faults.support.wait import until
from tests.faults.workload import MIB, Load

AWAY_S: Final = 8
CODE: Final = "rs:2+2"
"""Two nodes to spare: three of six are dead at the end, one after the other."""
FILE_BYTES_MAX: Final = MIB
"""Of a node whose disk is broken: more than it writes to any file but those of its log."""


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
            cluster.kill(first)
            _wait_taken_over(cluster, first)
            at_least(load, 10, f"without {first}")
            _break_disk(cluster, second)
            _wait_taken_over(cluster, second)
            at_least(load, 10, f"without the store of {second}")
        report.wrong += [
            f"{state.node.name} has ended"
            for state in cluster.nodes()
            if state.node.name == second and not state.pid
        ]
        cluster.kill(second, third)
        report.wrong += load.read_everything_back()
        _ = cluster.start()
        status = cluster.wait_healthy(HEAL_LIMIT_S)
        report.wrong += [f"{node.name} is {node.state}" for node in status.nodes if node.state != "up"]
        report.wrong += load.read_everything_back()
        report.seen = load.record.tell()
    return report


def _break_disk(cluster: LocalCluster, name: str) -> None:
    """From now on its log can be written no further, while its process runs on."""
    pid = next(state.pid for state in cluster.nodes() if state.node.name == name)
    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
    resource.prlimit(pid, resource.RLIMIT_FSIZE, (FILE_BYTES_MAX, most))


def _wait_taken_over(cluster: LocalCluster, name: str) -> None:
    def done() -> bool:
        with cluster.admin() as admin:
            status = admin.status()
            state = next(node.state for node in status.nodes if node.name == name)
            return state == "lost" and status.partitions_full == status.partitions

    until(done, HEAL_LIMIT_S, f"others to take over from {name}")
