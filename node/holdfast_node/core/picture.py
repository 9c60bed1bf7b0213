"""One picture of the cluster from its map and its nodes' accounts.

Counts nothing that nobody vouched for: a partition whose steward did not answer is *unreported*, a store whose
shards heal has not confirmed since it joined is *unproven* and counts as missing. Refuses to know how the accounts
were gathered.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Final

from holdfast_node.core.api import Margin
from holdfast_node.core.cluster_map import LEAVING, ClusterMap, NodeEntry, StoreState
from holdfast_node.core.codes import parse_code
from holdfast_node.core.errors import Evidence, Refused
from holdfast_node.core.ids import StoreId
from holdfast_node.core.margin import least, partition_margin
from holdfast_node.core.messages import NodeStatus, PartitionHealth, Sighting, WorkerStatus
from holdfast_node.core.report import NodeReport, PoolReport, StatusReply, WorkerReport
from holdfast_node.core.topology import Topology

HEALER: Final = "healer"
PROBLEMS_MAX: Final = 50
"""Lines of trouble in one status; more are counted, not listed."""


class Picture:
    """All that is derived from one map and the nodes' accounts. `silence`: what is known of why a node gave none."""

    def __init__(
        self,
        topology: Topology,
        accounts: Mapping[StoreId, NodeStatus],
        silence: Mapping[StoreId, str] = MappingProxyType({}),
    ) -> None:
        self.topology = topology
        self._accounts = accounts
        self._silence = silence
        self._health = _worst_health(accounts)
        looked = [row.healed_epoch for row in self._health.values() if row.healed_epoch]
        self._healed_epoch = min(looked, default=0)

    def draw(self) -> StatusReply:
        topology = self.topology
        margins, full, degraded, unreported = self._partitions()
        nodes = tuple(self._node(node) for node in topology.map.nodes)
        exceptions = sum(row.exceptions for row in self._health.values())
        problems = self._problems(nodes, unreported, exceptions)
        if not problems and degraded:
            problems = (f"{degraded} partitions are not at full margin",)
        margin = least(margins)
        return StatusReply(
            cluster_id=topology.map.cluster_id,
            epoch=topology.map.epoch,
            era=topology.map.era,
            simulated_domains=topology.map.simulated_domains,
            nodes=nodes,
            workers=self._workers(),
            blobs=sum(row.blobs for row in self._health.values()),
            bytes=sum(row.bytes for row in self._health.values()),
            least_margin=margin,
            partitions=len(margins),
            partitions_full=full,
            partitions_degraded=degraded,
            partitions_unreported=unreported,
            exceptions=exceptions,
            healthy=not problems and full == len(margins),
            problems=problems,
            voters=tuple(topology.name(store) for store in topology.map.voters),
            pools=self._pools(),
        )

    def _up(self, store: StoreId) -> bool:
        account = self._accounts.get(store)
        return account is not None and account.voting

    def _proven(self, store: StoreId) -> bool:
        """Answered, and heal has passed since this store joined, wherever a steward has looked at all.

        A blob's later parts lie in other partitions than its key, so one partition that heal has not passed leaves
        the store unproven everywhere. One whose steward is new and has not looked says nothing about any store.
        """
        node = self.topology.node(store)
        return node is not None and store in self._accounts and self._healed_epoch >= node.joined_epoch

    def _partitions(self) -> tuple[list[Margin], int, int, int]:
        margins: list[Margin] = []
        full = degraded = unreported = 0
        for at, pool in enumerate(self.topology.map.pools):
            for number in range(len(pool.partitions)):
                margin = self._margin(at, number)
                row = self._health.get((at, number))
                if row is None:
                    unreported += 1
                elif row.exceptions:
                    margin = least((margin, Margin(row.survives, full=False)))
                elif not row.healed_epoch:
                    margin = Margin(margin.entries, full=False)
                margins.append(margin)
                full += margin.full and row is not None
                degraded += not margin.full and row is not None
        return margins, full, degraded, unreported

    def _margin(self, pool: int, partition: int) -> Margin:
        """While shards follow a change of homes or of the code, a blob is where it was or where it belongs, and heal
        drops nothing that would lower a margin on the way: so it is the smaller of the two. Versions kept for undo stay
        where they were, in the code they are in."""
        topology = self.topology
        passed = not self._unpassed(pool)
        before = topology.former_homes(pool, partition)

        def been_given(store: StoreId) -> bool:
            return self._proven(store) or (not passed and self._has_been_given(pool, store, before))

        found = partition_margin(topology, pool, partition, self._up, holding=been_given)
        if passed and not self._left(pool):
            return found
        former = topology.former_code(pool)
        then = partition_margin(
            topology, pool, partition, self._up, holding=self._proven, homes=before, code=former
        )
        return Margin(least((then, found)).entries, full=passed and found.full)

    def _has_been_given(self, pool: int, store: StoreId, before: Sequence[StoreId]) -> bool:
        """Whether what has moved to a store is there: to one that has taken a lost one's place since, nothing has."""
        node = self.topology.node(store)
        since = self.topology.pool(pool).moved_epoch
        return store not in before and node is not None and node.joined_epoch <= since

    def settled_pools(self) -> dict[str, int]:
        """The pools in which nothing is in another place or code than it should be: name -> epoch that moved them."""
        pools = self.topology.map.pools
        return {pool.name: pool.moved_epoch for at, pool in enumerate(pools) if self._settled(at)}

    def unsettled(self) -> str:
        """Why not every shard is known to be where, and in the code, that the map says; empty if it is."""
        found = (self._unsettled(pool) for pool in range(len(self.topology.map.pools)))
        return next((reason for reason in found if reason), "")

    def votes(self, store: StoreId) -> bool:
        """Whether it answers, and says that it does."""
        return self._up(store)

    def sightings(self) -> dict[StoreId, tuple[Sighting, ...]]:
        """What each node that answers has seen of those that do not."""
        return {store: account.sightings for store, account in self._accounts.items()}

    def refuse_without_room(self, after: ClusterMap, fill: float) -> None:
        """Raises `Refused` if what moves would fill a node beyond so much of it, or if that is not known."""
        wrong: list[Evidence] = []
        for store, gained in sorted(self._gained(after).items()):
            name, account = self.topology.name(store), self._accounts.get(store)
            if gained < 0 or account is None:
                wrong.append(Evidence(name, "how full it would be is not known"))
            elif gained and account.used_bytes + gained > fill * account.capacity_bytes:
                said = f"{account.used_bytes} bytes, {gained} more, of {account.capacity_bytes}"
                wrong.append(Evidence(name, said))
        if wrong:
            names = ", ".join(each.who for each in wrong)
            raise Refused(
                f"for all that is known {names} would be more than {fill:.0%} full",
                hint="bring the node back, or add nodes",
                evidence=wrong,
            )

    def _gained(self, after: ClusterMap) -> dict[StoreId, int]:
        """Bytes of shards that each store is given; -1 where nobody tells of a partition how much is in it."""
        gained: dict[StoreId, int] = {}
        for at, pool in enumerate(after.pools):
            k = parse_code(pool.code).k
            for number, entry in enumerate(pool.partitions):
                known = (at, number) in self._health
                for home, store in zip(entry.homes, entry.moving, strict=False):
                    if store != home:
                        before = gained.get(store, 0)
                        more = self.bytes_of(at, number) // k
                        gained[store] = before + more if known and before >= 0 else -1
        return gained

    def shard_bytes(self, pool: int, slots: Mapping[int, int], code: str) -> int:
        """Of so many shards of each partition, in a code."""
        k = parse_code(code).k
        return sum(count * self.bytes_of(pool, number) // k for number, count in slots.items())

    def bytes_of(self, pool: int, partition: int) -> int:
        """Of the blobs in a partition, as its steward counts them; 0 if it did not answer."""
        row = self._health.get((pool, partition))
        return row.bytes if row is not None else 0

    def heal_eta_s(self) -> float:
        """When the last steward will have mended what it knows to ail; -1 if one cannot tell."""
        told = [
            _worker_report("", worker).eta_s
            for account in self._accounts.values()
            for worker in account.workers
            if worker.name == HEALER
        ]
        return -1.0 if not told or min(told) < 0 else max(told)

    def _settled(self, pool: int) -> bool:
        """Whether heal has passed the last change of homes in all partitions of the pool. What was written since then
        is where it belongs, or among the exceptions."""
        return not self._unsettled(pool)

    def _unsettled(self, pool: int) -> str:
        return self._unpassed(pool) or self._left(pool)

    def _unpassed(self, pool: int, since: int = 0) -> str:
        """Where heal is not known to have passed what moved last, nor the epoch `since`, and why, of one partition;
        empty if it has passed everywhere."""
        meant = self.topology.pool(pool)
        epoch = max(meant.moved_epoch, since)
        for number in range(len(meant.partitions)) if epoch else ():
            row = self._health.get((pool, number))
            where = f"pool {meant.name} partition {number}"
            if row is None:
                return f"no steward of {where} answers now"
            if row.passed_epoch < epoch and row.quarantined:
                keys = "key" if row.quarantined == 1 else "keys"
                return f"heal cannot mend {row.quarantined} {keys} of {where}: `clusterctl quarantine list` says why"
            if row.passed_epoch < epoch:
                return f"heal has passed {where} at epoch {row.passed_epoch}, not yet at {epoch}"
        return ""

    def _left(self, pool: int) -> str:
        """Where something may be in the code that the pool had before; empty if nothing is."""
        meant = self.topology.pool(pool)
        for (at, number), row in sorted(self._health.items()) if meant.former_code else ():
            where = f"pool {meant.name} partition {number}"
            if at == pool and row.former < 0:
                return f"the steward of {where} has not looked for what is left in {meant.former_code}"
            if at == pool and row.former:
                return (
                    f"{row.former} versions of {where} are in {meant.former_code}: those kept for undo expire"
                )
        return ""

    def needed_because(self, node: NodeEntry) -> str:
        """Why a node cannot be removed: others may hold what nobody else does. Empty if it can."""
        if node.state not in LEAVING:
            return f"is {self.state(node)}, not drained"
        if kept := len(self.topology.kept_by(node.store)):
            return f"is a home of {kept} partitions"
        if node.store in self.topology.map.voters:
            return "is a voter of the map"
        for pool, meant in enumerate(self.topology.map.pools):
            if unpassed := self._unpassed(pool, since=self.topology.map.unsettled_epoch):
                return unpassed
            if any(node.store in entry.former for entry in meant.partitions) and (left := self._left(pool)):
                return left
        return ""

    def state(self, node: NodeEntry) -> str:
        if node.state is StoreState.SUSPECT:
            return "suspect"
        if node.state is StoreState.LOST:
            return "lost"
        if node.state is StoreState.DRAINING:
            return "draining" if self.needed_because(node) else "drained"
        return "down" if node.store not in self._accounts else "up"

    def _node(self, node: NodeEntry) -> NodeReport:
        account = self._accounts.get(node.store)
        learning = len(self.topology.learned_by(node.store))
        shards = "claimed" if account is None else "catching-up" if learning else "unproven"
        if shards == "unproven" and self._proven(node.store):
            shards = "proven"
        return NodeReport(
            name=node.name,
            address=node.address,
            tags=node.tags,
            store=node.store,
            state=self.state(node),
            voting=account.voting if account else False,
            not_voting_reason=account.not_voting_reason if account else self._silence.get(node.store, ""),
            epoch=account.epoch if account else 0,
            boot=account.boot if account else 0,
            used_bytes=account.used_bytes if account else 0,
            capacity_bytes=account.capacity_bytes if account else 0,
            uptime_s=account.uptime_s if account else 0.0,
            shards=shards,
            learning_partitions=learning,
            weight=node.weight,
            unproven_s=account.unproven_s if account else 0.0,
            promised_s=account.promised_s if account else 0.0,
        )

    def _problems(self, nodes: Sequence[NodeReport], unreported: int, exceptions: int) -> tuple[str, ...]:
        lines = [line for node in nodes if (line := _trouble_of(node))]
        for store in sorted(self._accounts):
            lines.extend(
                f"{self.topology.name(store)}: {warning}" for warning in self._accounts[store].warnings
            )
        if moves := self.topology.moves_open():
            lines.append(f"{moves} partitions are moving to other homes: `clusterctl plan` shows how far")
        unseen = sum(not row.healed_epoch for row in self._health.values())
        if unseen:
            lines.append(f"{unseen} partitions have not been looked through by their steward yet")
        hopeless = sum(row.quarantined for row in self._health.values())
        if exceptions > hopeless:
            coming = exceptions - hopeless
            lines.append(f"{coming} keys have shards that are not at their homes yet, heal is under way")
        if hopeless:
            lines.append(f"{hopeless} keys cannot be mended: `clusterctl quarantine list` says why")
        if unreported:
            lines.append(f"{unreported} partitions have no live steward: nothing is known of their blobs")
        if len(lines) > PROBLEMS_MAX:
            lines[PROBLEMS_MAX:] = [f"and {len(lines) - PROBLEMS_MAX} more"]
        return tuple(lines)

    def _workers(self) -> tuple[WorkerReport, ...]:
        return tuple(
            _worker_report(self.topology.name(store), worker)
            for store in sorted(self._accounts, key=self.topology.name)
            for worker in self._accounts[store].workers
        )

    def _pools(self) -> tuple[PoolReport, ...]:
        reports: list[PoolReport] = []
        for at, pool in enumerate(self.topology.map.pools):
            rows = [row for (number, _), row in self._health.items() if number == at]
            designed = least(
                partition_margin(self.topology, at, number, lambda _: True)
                for number in range(len(pool.partitions))
            )
            reports.append(
                PoolReport(
                    name=pool.name,
                    code=pool.code,
                    partitions=len(pool.partitions),
                    protected_tags=pool.protected_tags,
                    ack_floor=pool.ack_floor,
                    designed_margin=designed,
                    blobs=sum(row.blobs for row in rows),
                    bytes=sum(row.bytes for row in rows),
                )
            )
        return tuple(reports)


def _worst_health(accounts: Mapping[StoreId, NodeStatus]) -> dict[tuple[int, int], PartitionHealth]:
    """One row a partition; if two stewards report the same one, what is worse of both."""
    rows: dict[tuple[int, int], PartitionHealth] = {}
    for store in sorted(accounts):
        for row in accounts[store].stewarded:
            at = (row.pool, row.partition)
            known = rows.get(at)
            rows[at] = row if known is None else worse(row, known)
    return rows


def worse(one: PartitionHealth, other: PartitionHealth) -> PartitionHealth:
    """A steward that has just taken over knows of no exceptions, and claims nothing; one that has not noticed yet that
    it is no steward any more may know of some."""
    former = sorted((one.former, other.former))
    tags = dict.fromkeys(tag for tag, _ in (*one.survives, *other.survives))
    told = [dict(row.survives) for row in (one, other) if row.survives]
    return replace(
        max(one, other, key=lambda row: row.blobs),
        healed_epoch=min(one.healed_epoch, other.healed_epoch),
        passed_epoch=min(one.passed_epoch, other.passed_epoch),
        exceptions=max(one.exceptions, other.exceptions),
        quarantined=max(one.quarantined, other.quarantined),
        least_margin=min(one.least_margin, other.least_margin),
        survives=tuple((tag, min(row[tag] for row in told if tag in row)) for tag in tags),
        former=former[0] if former[0] < 0 else former[1],
    )


def _worker_report(node: str, worker: WorkerStatus) -> WorkerReport:
    return WorkerReport(
        node=node,
        name=worker.name,
        state=worker.state,
        detail=worker.detail,
        done=worker.done,
        total=worker.total,
        bytes_done=worker.bytes_done,
        rate_bytes_s=worker.rate_bytes_s,
        eta_s=worker.eta_s or (-1.0 if worker.done < worker.total else 0.0),
        bytes_read=worker.bytes_read,
    )


def _trouble_of(node: NodeReport) -> str:
    """What is wrong with a node and the next command, in one line; empty if nothing is."""
    replace = f"`clusterctl node replace --lost {node.name}`"
    if node.state == "drained":
        return ""
    if node.state == "draining":
        return f"{node.name} is draining: `clusterctl plan` shows how far"
    if node.state == "lost":
        return _trouble_of_lost(node)
    if node.state == "suspect":
        return f"{node.name} is suspect, an older or a copied store: empty it, start it and run {replace}"
    if node.state == "down":
        why = f" ({node.not_voting_reason})" if node.not_voting_reason else ""
        return (
            f"{node.name} does not answer at {node.address}{why}: start it; if its data is gone, "
            f"start it empty and run {replace}"
        )
    if not node.voting:
        return f"{node.name} does not vote: {node.not_voting_reason}"
    if node.learning_partitions:
        return f"{node.name} is catching up: {node.learning_partitions} partitions to go"
    if node.shards != "proven":
        return f"{node.name}: its shards are not proven yet, heal is under way"
    return ""


def _trouble_of_lost(node: NodeReport) -> str:
    if node.shards == "claimed":
        why = f" ({node.not_voting_reason})" if node.not_voting_reason else ""
        return (
            f"{node.name} was silent for so long{why} that others take over: start it, and it takes a share again "
            f"in its time (`[lost]`), or take it out by `clusterctl node remove {node.name}`"
        )
    if not node.voting:
        return f"{node.name} is back after others took over, but does not vote: {node.not_voting_reason}"
    return (
        f"{node.name} is back after others took over: it takes a share again in its time (`[lost]`), "
        f"or now by `clusterctl node add {node.name}`"
    )
