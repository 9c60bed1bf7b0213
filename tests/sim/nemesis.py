"""What goes wrong in a world, within a budget that leaves it recoverable.

Each world draws a few kinds of trouble and sticks to them: a world with everything at once hides what each alone
would show. Crashes, cuts, delays and wrong clocks may come at any time, as often as they like. What destroys data
(a wiped domain, a rolled-back store, rot) comes only when everything acked could stand it.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Final

from holdfast_node.core.errors import HoldfastError
from holdfast_node.core.messages import ReadChanges
from holdfast_node.services.admin import Admin
from tests.sim.client import ConnectionLost
from tests.sim.cluster import Cluster, Machine
from tests.sim.damage import Damage
from tests.sim.loop import Life
from tests.sim.moves import Moves

PATIENCE_S: Final = 400.0
"""How long a cluster without faults may take until it calls itself healthy."""
POLL_S: Final = (0.3, 3.0)
"""How often to ask, at first and at last."""
AMBUSH_S: Final = 4.0
"""How long one lies in wait."""
ACTS_MAX: Final = 12
"""Faults in one burst: callers that wait for nodes must come to their end."""


@dataclass(frozen=True)
class Trouble:
    """Which kinds of fault a world has."""

    crash: bool = False
    power_cut: bool = False
    all_at_once: bool = False
    partition: bool = False
    messages: bool = False
    late: bool = False
    """Every third message comes when everything was decided without it, or not at all."""
    slow: bool = False
    pause: bool = False
    clock: bool = False
    failed_sync: bool = False
    ambush: bool = False
    """A process dies between two steps of its own, wherever it is."""
    full: bool = False
    wipe: bool = False
    rollback: bool = False
    clone: bool = False
    rot: bool = False
    lies: bool = False
    """One disk loses writes or puts them elsewhere, and says they are durable."""
    read_errors: bool = False
    move: bool = False
    """Nodes are added, drained, removed, and changes of homes cancelled."""
    recode: bool = False
    """The pool's code changes while some nodes miss what is written."""
    absence: bool = False
    """Nodes stay away until others take over."""
    unfollowed: bool = False
    """No home hears of the changes at another: what one of them misses is not mended behind its back."""

    @property
    def damages(self) -> bool:
        """Whether a disk may lose what it held, in a place nobody reads until the next scrub."""
        return self.rot or self.lies

    @staticmethod
    def drawn(chooser: random.Random) -> Trouble:
        """Each kind in about every third world; one kind that destroys, at most."""
        names = [name for name in Trouble.__dataclass_fields__ if name not in (*_DESTROYS, *_DRAWN_APART)]
        drawn = {name: chooser.random() < (0.05 if name == "late" else 0.35) for name in names}
        destroys = chooser.choice((*_DESTROYS, "wipe", "wipe", "", ""))
        if destroys:
            drawn[destroys] = True
        return Trouble(**drawn)

    def __str__(self) -> str:
        return " ".join(name for name in self.__dataclass_fields__ if getattr(self, name)) or "none"


_DESTROYS: Final = ("wipe", "rollback", "clone", "rot", "lies", "read_errors")
_DRAWN_APART: Final = ("move", "recode", "absence", "unfollowed")


class Nemesis:
    """Applies trouble to a cluster until it is told to stop, then mends what only a person would mend."""

    def __init__(
        self,
        cluster: Cluster,
        trouble: Trouble,
        *,
        chooser: random.Random,
        note_loss: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._trouble = trouble
        self._chooser = chooser
        self._stopped = False
        self.done: Counter[str] = Counter()
        self._moves = Moves(cluster, chooser=chooser)
        self._damage = Damage(
            cluster,
            chooser=chooser,
            note_loss=note_loss,
            settle=self.settle,
            replace_lost=self.replace_lost,
            done=self.done,
        )

    # --- while callers work

    async def rage(self) -> None:
        acts = self._acts()
        self._set_weather()
        for _ in range(ACTS_MAX if acts else 0):
            if self._stopped:
                break
            await asyncio.sleep(self._chooser.uniform(0.05, 3.0))
            if not self._stopped:
                name, act = self._chooser.choice(acts)
                await act()
                self.done[name] += 1

    def _acts(self) -> list[tuple[str, Callable[[], Awaitable[object]]]]:
        trouble = self._trouble
        known: list[tuple[str, bool, Callable[[], Awaitable[object]]]] = [
            ("crash", trouble.crash, self._crash),
            ("power_cut", trouble.power_cut, self._power_cut),
            ("all_at_once", trouble.all_at_once, self._all_at_once),
            ("partition", trouble.partition, self._partition),
            ("bridge", trouble.partition, self._bridge),
            ("clog", trouble.slow, self._clog),
            ("slow", trouble.slow, self._slow),
            ("pause", trouble.pause, self._pause),
            ("clock", trouble.clock, self._clock),
            ("failed_sync", trouble.failed_sync, self._failed_sync),
            ("ambush", trouble.ambush, self._ambush),
            ("full", trouble.full, self._full),
            *(("rot", trouble.rot, self._damage.rot),) * 3,
            ("lost write", trouble.lies, self._damage.lose_write),
            ("misdirected write", trouble.lies, self._damage.misdirect_write),
            ("read errors", trouble.read_errors, self._damage.fail_reads),
            *(("stay away", trouble.absence, self._stay_away),) * 3,
            *((name, trouble.move, act) for name, act in self._moves.acts()),
            *(("change the code unseen", trouble.recode, self._moves.recode_unseen),) * 3,
        ]
        return [(name, act) for name, on, act in known if on]

    def _set_weather(self) -> None:
        weather = self._cluster.network.weather
        if self._trouble.messages:
            weather.loss = self._chooser.choice((0.0, 0.02, 0.1))
            weather.duplicates = self._chooser.choice((0.0, 0.05, 0.3))
            weather.stragglers = self._chooser.choice((0.0, 0.05, 0.15))
            weather.straggle_s = self._chooser.choice((1.0, 5.0, 30.0))

        if self._trouble.late:
            weather.loss, weather.stragglers, weather.straggle_s = 0.15, 0.25, 30.0
        if self._trouble.unfollowed:
            self._cluster.network.losing = lambda request: isinstance(request, ReadChanges)

    def _one(self) -> Machine | None:
        running = self._cluster.running()
        return self._chooser.choice(running) if running else None

    async def _later(self, low_s: float, high_s: float) -> None:
        await asyncio.sleep(self._chooser.uniform(low_s, high_s))

    async def _crash(self) -> None:
        await self._fell([m for m in [self._one()] if m is not None], power=False)

    async def _power_cut(self) -> None:
        running = self._cluster.running()
        count = self._chooser.randint(1, max(1, len(running) // 2))
        await self._fell(self._chooser.sample(running, min(count, len(running))), power=True)

    async def _all_at_once(self) -> None:
        await self._fell(self._cluster.running(), power=self._chooser.random() < 0.7)

    async def _fell(self, machines: list[Machine], *, power: bool) -> None:
        for machine in machines:
            self._cluster.stop_at_once(machine, power=power)
        await self._later(0.0, 4.0)
        await self._start(machines)

    async def _start(self, machines: list[Machine]) -> None:
        async with asyncio.TaskGroup() as group:
            for machine in machines:
                if machine.life is None and not machine.wiped:
                    group.create_task(self._cluster.boot(machine))

    async def _stay_away(self) -> None:
        """For as long as others wait, and some time, in which they may be at it. Some are gone again as soon as they
        are given a share, for as long. Of some only the store is gone, and their processes look on."""
        running, patience = self._cluster.running(), self._cluster.topology.patience
        machines = self._chooser.sample(running, min(len(running), self._chooser.choice((1, 1, 1, 2))))
        limit_s = patience.limit_s(len(machines))
        while machines:
            for machine in machines:
                self._put_out(machine)
            await self._later(0.7 * limit_s, 2.0 * limit_s + 6.0)
            for machine in machines:
                self._cluster.stop_at_once(machine)
            await self._start(machines)
            if self._chooser.random() < 0.6:
                break
            await self._later(0.9 * patience.back_s, 1.5 * patience.back_s + 4.0)

    def _put_out(self, machine: Machine) -> None:
        how = self._chooser.choice(("process", "power", "disk"))
        if how == "disk" and machine.disk is not None:
            self._cluster.note(f"FAIL SYNC {machine.name}, and nobody starts it again")
            machine.disk.fail_syncs = True
        else:
            self._cluster.stop_at_once(machine, power=how == "power")

    async def _partition(self) -> None:
        names = sorted(self._cluster.machines)
        self._chooser.shuffle(names)
        cut = self._chooser.randint(1, len(names) - 1)
        one_way = self._chooser.random() < 0.3
        some = names[cut:] if self._chooser.random() < 0.6 else names[cut : cut + 1]
        for left in names[:cut]:
            for right in some:
                self._cluster.network.block(f"{left}:1", f"{right}:1")
                if not one_way:
                    self._cluster.network.block(f"{right}:1", f"{left}:1")
        self._cluster.note(f"PARTITION {names[:cut]} | {some} {'one way' if one_way else ''}")
        await self._later(0.5, 8.0)
        self._cluster.network.unblock_all()
        self._cluster.note("PARTITION over")

    async def _bridge(self) -> None:
        """Two halves that only one node can see both of."""
        names = sorted(self._cluster.machines)
        self._chooser.shuffle(names)
        middle = (len(names) - 1) // 2
        left, right = names[:middle], names[middle : len(names) - 1]
        for one in left:
            for other in right:
                self._cluster.network.block(f"{one}:1", f"{other}:1")
                self._cluster.network.block(f"{other}:1", f"{one}:1")
        self._cluster.note(f"PARTITION {left} | {right}, {names[-1]} sees both")
        await self._later(0.5, 8.0)
        self._cluster.network.unblock_all()
        self._cluster.note("PARTITION over")

    async def _clog(self) -> None:
        """What one node sends another piles up, and arrives all the same."""
        one, other = self._chooser.sample(sorted(self._cluster.machines), 2)
        clogged = self._cluster.network.weather.clogged
        self._cluster.note(f"CLOG {one} -> {other}")
        clogged[f"{one}:1", f"{other}:1"] = self._chooser.choice((0.3, 3.0, 30.0))
        await self._later(0.5, 8.0)
        clogged.clear()

    async def _ambush(self) -> None:
        """Somebody dies in the middle of what it does: after some step, or with something written and not synced. It
        may be back before anybody else has noticed."""
        struck: list[Machine] = []
        dead = asyncio.Event()
        power = self._chooser.random() < 0.7

        def strike(life: Life) -> bool:
            for machine in self._cluster.running():
                if machine.life is life and (not power or machine.platter.unsynced()):
                    struck.append(machine)
                    self._cluster.coverage.saw("a process died between two awaits")
                    self._cluster.stop_at_once(machine, power=power)
                    dead.set()
            return bool(struck)

        self._cluster.loop.ambush(self._chooser.choice((1, 10, 100, 1000)), strike)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(AMBUSH_S):
                await dead.wait()
        self._cluster.loop.ambush(0, strike)
        if self._chooser.random() < 0.5:
            await self._later(0.0, 4.0)
        await self._start(struck)

    async def _full(self) -> None:
        """Somebody else fills the disk, and frees it again."""
        machine = self._one()
        if machine is None:
            return
        platter = machine.platter
        self._cluster.note(f"FULL {machine.name}")
        before, platter.capacity_bytes = platter.capacity_bytes, platter.used_bytes()
        machine.index_full = self._chooser.random() < 0.5
        await self._later(0.5, 10.0)
        platter.capacity_bytes, machine.index_full = before, False

    async def _slow(self) -> None:
        machine = self._one()
        if machine is None:
            return
        network, disks = self._cluster.network, self._cluster.slow_disks
        network.weather.slow[machine.address] = self._chooser.choice((1.0, 20.0, 100.0))
        disks[machine.name] = self._chooser.choice((1.0, 20.0, 100.0))
        await self._later(1.0, 8.0)
        network.weather.slow.clear()
        disks.clear()

    async def _pause(self) -> None:
        machine = self._one()
        if machine is None:
            return
        self._cluster.pause(machine)
        await self._later(0.5, 8.0)
        self._cluster.resume(machine)

    async def _clock(self) -> None:
        before = self._cluster.clock.wrong_by_ms
        self._cluster.clock.wrong_by_ms = self._chooser.choice((-(10**12), 0, 10**9, 10**12))
        if self._cluster.clock.wrong_by_ms < before:
            self._cluster.coverage.saw("a wrong clock was set back")

    async def _failed_sync(self) -> None:
        machine = self._one()
        if machine is None or machine.disk is None:
            return
        self._cluster.note(f"FAIL SYNC {machine.name}")
        machine.disk.fail_syncs = True
        await self._later(1.0, 5.0)
        self._cluster.stop_at_once(machine)
        await self._start([machine])

    # --- what destroys

    async def destroy(self) -> None:
        """Between two bursts of trouble, with the cluster in good health."""
        if self._trouble.wipe and self._trouble.unfollowed:
            await self._damage.lose_node_later()
        elif self._trouble.wipe:
            await self._damage.lose_domain()
        if self._trouble.rollback:
            await self._damage.roll_back()
        if self._trouble.clone:
            await self._damage.clone()

    # --- calm

    def stop(self) -> None:
        self._stopped = True

    def resume_raging(self) -> None:
        self._stopped = False

    def calm(self) -> None:
        """No more faults from outside: the weather clears, nobody is cut off, slow or paused."""
        network = self._cluster.network
        network.unblock_all()
        if self._trouble.unfollowed:
            network.losing = None
        weather = network.weather
        weather.loss = weather.duplicates = weather.stragglers = 0.0
        weather.slow.clear()
        weather.clogged.clear()
        self._cluster.slow_disks.clear()
        for machine in self._cluster.machines.values():
            self._cluster.resume(machine)

    async def settle(self) -> bool:
        """Everything up and healthy, without any help but starting processes. False if that takes too long."""
        await self.replace_lost()
        await self.settle_processes()
        healthy = not await self.unhealthy(PATIENCE_S)
        self._set_weather()
        return healthy

    async def settle_processes(self) -> None:
        """Faults stop, and whatever was killed or has failed is started again."""
        self.calm()
        failed = [m for m in self._cluster.running() if m.disk is not None and m.disk.failure]
        for machine in failed:
            self._cluster.stop_at_once(machine)
        await self._start([m for m in self._cluster.machines.values() if m.node is None])

    async def unhealthy(self, patience_s: float) -> str:
        """Wait until the cluster calls itself healthy. Why it does not, if it never does."""
        deadline = self._cluster.loop.time() + patience_s
        why, poll_s = "nobody was asked", POLL_S[0]
        while self._cluster.loop.time() < deadline:
            machine = self._one()
            why = await self.ask_health(machine) if machine is not None else "nothing runs"
            self._cluster.note(f"HEALTH {why or 'good'}")
            if not why:
                return ""
            await asyncio.sleep(poll_s)
            poll_s = min(POLL_S[1], 1.3 * poll_s)
        return why

    async def scrub(self) -> list[str]:
        """Have every store read itself back. What it found and could not heal, or why that did not end. A store that is
        suspect heals nothing any more: it will be replaced."""
        deadline = self._cluster.loop.time() + PATIENCE_S
        goal: dict[str, int] = {}
        left = ["nobody was asked"]
        while self._cluster.loop.time() < deadline:
            machine, first = self._one(), not goal
            if machine is not None:
                with contextlib.suppress(HoldfastError, ConnectionLost):
                    told = await self._cluster.admin(machine, partial(Admin.scrub, now=first))
                    goal = goal or {each.node: each.cycle for each in told.nodes}
                    doomed = {each.name for each in self._cluster.running() if _is_suspect(each)}
                    nodes = [node for node in told.nodes if node.node not in doomed]
                    left = [f"{name} did not answer" for name in told.unreachable]
                    left += [f"{node.node}: {why}" for node in nodes for why in node.waiting]
                    left += [f"{node.node} is not done" for node in nodes if node.completed < goal[node.node]]
                    self._cluster.note(f"SCRUB {left or 'done'}")
                    if not left:
                        return []
            await asyncio.sleep(1.0)
        return left

    async def ask_health(self, machine: Machine) -> str:
        try:
            status = await self._cluster.admin(machine, lambda admin: admin.status())
        except (HoldfastError, ConnectionLost) as error:
            return repr(error)
        assert status.healthy != bool(status.problems), "healthy is when there is no problem, and only then"
        waiting = await self._moves.go_on(machine, status)
        known = tuple(f"{name} is back " for name in waiting)
        return "; ".join(problem for problem in status.problems if not problem.startswith(known))

    async def replace_lost(self) -> str:
        """What an operator does: start empty processes under the lost names, and say so in the map."""
        lost = [machine for machine in self._cluster.machines.values() if machine.wiped]
        if not lost:
            return ""
        for machine in lost:
            if machine.life is None:
                await self._cluster.boot(machine, format_if_empty=True)
        why = ""
        for machine in lost:
            why = await self._replace(machine)
            if why:
                break
            machine.wiped = False
        if self._trouble.move or self._trouble.recode:
            await self._moves.think_again()
        return why

    async def replace_holed(self) -> str:
        """What an operator does about a store that says it has lost records for good, or that others say has. Why that
        did not work."""
        for machine in self._cluster.running():
            if machine.node is not None and (machine.node.store.lost_records or _is_suspect(machine)):
                self._cluster.wipe(machine)
        return await self.replace_lost()

    async def _is_in_the_map(self, helper: Machine, machine: Machine) -> bool:
        """Whether a replacement whose answer was lost has been made all the same: another try is refused then."""
        own = machine.node.store.superblock.store if machine.node is not None else None
        try:
            told = await self._cluster.admin(helper, lambda admin: admin.get_map())
        except (HoldfastError, ConnectionLost):
            return False
        return any(node.store == own for node in told.map.nodes)

    async def _replace(self, machine: Machine) -> str:
        why = ""
        for _ in range(60):
            helper = self._chooser.choice([m for m in self._cluster.running() if not m.wiped] or [machine])
            try:
                await self._cluster.admin(helper, lambda admin: admin.replace_lost(machine.name))
            except (HoldfastError, ConnectionLost) as error:
                why = f"replace --lost {machine.name}: {error!r}"
                if await self._is_in_the_map(helper, machine):
                    return ""
            else:
                self.done["replace"] += 1
                return ""
            await asyncio.sleep(1.0)
        return why


def _is_suspect(machine: Machine) -> bool:
    return machine.node is not None and "suspect" in machine.node.membership.may_vote()
