"""What an operator does to the map of a cluster under load: nodes come and go, the pool's code changes."""

from __future__ import annotations

from abc import abstractmethod
from typing import Final

import holdfast
from holdfast.admin import Admin
from holdfast.testing.local import seed_node
from holdfast.testing.refusals import LocalRefused
from holdfastpb.v1 import admin_pb2
from tests.thrash.nemeses import MAP, Nemesis, NotNowError, Stage

CODES: Final = ("rs:4+2", "rs:3+3", "rs:3+2", "rs:2+1")
"""All of them survive the loss of one of three SANs."""
CANCEL_SHARE: Final = 0.5
SAID_CHARS_MAX: Final = 120


class _Operator(Nemesis):
    """One command at a time; now and then what was begun is undone."""

    hits = MAP
    hold_s = 10.0

    def strike(self, stage: Stage) -> str:
        try:
            with stage.cluster.admin() as admin:
                if admin.plan().open and stage.chooser.random() < CANCEL_SHARE:
                    admin.change(admin_pb2.ChangeRequest(cancel=True, apply=True))
                    return "what was begun is undone"
                return self.step(stage, admin)
        except (holdfast.Error, LocalRefused) as error:
            raise NotNowError(str(error)[:SAID_CHARS_MAX]) from error

    @abstractmethod
    def step(self, stage: Stage, admin: Admin) -> str:
        """Give the command; what it was."""

    def undo(self, stage: Stage) -> None:
        """What it began comes to its end by itself."""


class ComeAndGo(_Operator):
    """The next step with a spare node: it is added; then somebody is drained, taken out and started anew as the next
    spare."""

    name = "nodes come and go"

    def missing(self, stage: Stage) -> str:
        return "" if stage.cluster.spare else "no node to spare"

    def step(self, stage: Stage, admin: Admin) -> str:
        states = {node.name: node.state for node in admin.status().nodes}
        drained = [name for name, state in states.items() if state == "drained"]
        outside = [name for name in stage.cluster.names() if name not in states]
        if drained:
            admin.change(admin_pb2.ChangeRequest(remove=drained[0], apply=True))
            stage.cluster.renew(drained[0])
            return f"{drained[0]} is taken out"
        if outside:
            node = seed_node(stage.cluster.layout.node(outside[0]))
            admin.change(admin_pb2.ChangeRequest(add=node, apply=True))
            return f"{outside[0]} is added"
        name = stage.chooser.choice(sorted(states))
        admin.change(admin_pb2.ChangeRequest(drain=name, apply=True))
        return f"{name} is drained"


class ChangeCode(_Operator):
    """The pool goes to another code."""

    name = "the code changes"

    def step(self, stage: Stage, admin: Admin) -> str:
        pool = admin.map().pools[0]
        code = stage.chooser.choice([each for each in CODES if each != pool.code])
        asked = admin_pb2.RecodePool(pool=pool.name, code=code)
        admin.change(admin_pb2.ChangeRequest(recode=asked, apply=True))
        return f"from {pool.code} to {code}"
