"""Opening a data directory: whose it is, what its log says, what is broken, and where writing goes on.

Refuses whatever it cannot be sure of. Afterwards every fact that replay found is durable again, so that a crash right
after the start finds the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from holdfast_node.core import log_format
from holdfast_node.core.errors import IntegrityError, StoreRefused
from holdfast_node.core.holes import covers
from holdfast_node.core.ids import ID_BYTES, BootId, ClusterId, NodeName, StoreId
from holdfast_node.core.index_keys import partition_of
from holdfast_node.core.log_format import BLOCK, Mark, Position
from holdfast_node.core.records import Hole, KillRecord, PartitionRecord, RecordType, Superblock
from holdfast_node.ports import NO_ROOM_FOR_INDEX, Bodies, Disk, Entropy, Index, IndexBroken, IndexFull
from holdfast_node.services.events import Events
from holdfast_node.services.log.indexer import Indexer
from holdfast_node.services.log.replay import Replay, Replayed, Rot
from holdfast_node.services.log.tables import ROT_REASON
from holdfast_node.services.log.volume import read_header, volume_name, volume_numbers

SUPERBLOCK = "superblock"
SUPERBLOCK_BYTES_MAX = 1024 * 1024
"""Three times what as many holes as there may be take (`core.holes.HOLES_MAX`)."""
BEGINNING = Position(volume=0, life=0, offset=0, batch=1, sequence=1, previous=0)

_WHOLE_STORE = frozenset({RecordType.MAP, RecordType.MAP_VOTE, RecordType.BUCKET, RecordType.KILL})
"""Types whose loss cannot be pinned to a key or a partition."""


@dataclass(frozen=True, slots=True)
class StorePorts:
    disk: Disk
    index: Index
    bodies: Bodies
    entropy: Entropy
    events: Events


@dataclass(frozen=True, slots=True)
class Opened:
    """`repairs` are records to append before anybody may use the store, with the flags of each."""

    indexer: Indexer
    position: Position
    size_bytes: int
    repairs: tuple[tuple[KillRecord | PartitionRecord, int], ...]
    rotten: tuple[str, ...]


async def read_superblock(
    ports: StorePorts, node: NodeName, *, format_if_empty: bool
) -> tuple[Superblock, Mark]:
    """The superblock as the last run left it, or a new one that is not yet written (boot 0). Raises `StoreRefused`."""
    names = ports.disk.names()
    if SUPERBLOCK not in names:
        if volume_numbers(names):
            raise StoreRefused(
                "the directory has a log but no superblock", hint="restore the file, or replace this store"
            )
        if not format_if_empty:
            raise StoreRefused(
                "the data directory is empty",
                hint="is the disk mounted? Start with --format to make a new store here",
            )
        return Superblock(
            cluster_id=ClusterId(b""),
            node=node,
            store=StoreId(ports.entropy.token(ID_BYTES)),
            boot=0,
            boot_id=BootId(bytes(ID_BYTES)),
        ), Mark()
    try:
        content = await ports.disk.read(SUPERBLOCK, 0, SUPERBLOCK_BYTES_MAX)
        body, mark = log_format.decode_superblock(content)
        found = ports.bodies.decode(Superblock, body)
    except IntegrityError as error:
        raise StoreRefused(f"the superblock is broken: {error}", hint="replace this store") from None
    if found.node != node:
        raise StoreRefused(
            f"this directory belongs to node {found.node}, not {node}",
            hint="check the path in the configuration",
        )
    if mark.batch and not volume_numbers(names):
        raise StoreRefused(f"the log is gone: {mark.batch} batches were durable", hint="replace this store")
    return found, mark


async def write_superblock(ports: StorePorts, superblock: Superblock, mark: Mark) -> None:
    await ports.disk.replace(SUPERBLOCK, log_format.encode_superblock(ports.bodies.encode(superblock), mark))


async def open_log(ports: StorePorts, superblock: Superblock, mark: Mark, *, volume_bytes: int) -> Opened:
    """Bring the index up to date with the log, whatever state it is in. Raises `StoreRefused`."""
    try:
        return await _open_log(ports, superblock, mark, volume_bytes=volume_bytes)
    except IndexFull as error:
        raise StoreRefused(
            f"{NO_ROOM_FOR_INDEX}: {error}", hint="make some, then start the node again"
        ) from error


async def _open_log(ports: StorePorts, superblock: Superblock, mark: Mark, *, volume_bytes: int) -> Opened:
    indexer = Indexer(ports.index, ports.bodies, superblock.store)
    await _finish_removals(ports.disk, superblock.holes)

    async def replay(start: Position) -> Replayed:
        pass_ = Replay(
            ports.disk, start, indexer.replay, mark=mark, holes=superblock.holes, volume_bytes=volume_bytes
        )
        return await pass_.run(volume_numbers(ports.disk.names()))

    try:
        start = await _start(ports, indexer)
        replayed = await replay(start)
    except (IndexBroken, IntegrityError) as error:  # a row that cannot be read, or none of this log
        ports.events.emit("index_rebuilt", reason=str(error))
        indexer.clear()
        start = BEGINNING
        replayed = await replay(start)
    repairs, rotten = _consequences(indexer, replayed.rot)
    await _settle_tail(ports.disk, replayed)
    if not repairs:
        indexer.finish(replayed.position)
    ports.events.emit(
        "log_replayed",
        batches=replayed.batches,
        from_start=start == BEGINNING,
        torn=replayed.torn,
        rot=len(replayed.rot),
        holes=len(superblock.holes),
        sequence=replayed.position.sequence - 1,
    )
    return Opened(indexer, replayed.position, replayed.size_bytes, repairs, rotten)


async def _start(ports: StorePorts, indexer: Indexer) -> Position:
    """Where the index left off, if the log agrees; else the index is cleared."""
    position = indexer.load()
    if position is not None and await _agrees(ports.disk, position):
        return position
    if position is not None:
        ports.events.emit("index_rebuilt", reason="it does not match the log")
    indexer.clear()
    return BEGINNING


async def _agrees(disk: Disk, position: Position) -> bool:
    """Whether the log has what the index says it has: the volume's life, and the last batch applied."""
    if position.volume not in volume_numbers(disk.names()):
        return position == BEGINNING
    header = await read_header(disk, position.volume)
    if header is None or header.life != position.life:
        return False
    if not position.last:
        return header.first_batch == position.batch
    try:
        block = await disk.read(volume_name(position.volume), position.last, BLOCK)
    except IntegrityError:
        return False
    batch = log_format.decode_batch_header(block)
    return batch is not None and batch.number == position.batch - 1 and batch.checksum == position.previous


async def _finish_removals(disk: Disk, holes: Sequence[Hole]) -> None:
    """What a crash left of compacted volumes. Nothing in them counts any more: what was dropped is in there too, and
    the record that says so may be gone."""
    for number in volume_numbers(disk.names()):
        if covers(holes, number):
            await disk.remove(volume_name(number))


async def _settle_tail(disk: Disk, replayed: Replayed) -> None:
    """Make what was read durable for certain, and a torn batch unreadable for good.

    A process may have died between write and sync: its last batch can be read, and still be lost to a power cut.
    """
    position, name = replayed.position, volume_name(replayed.position.volume)
    if replayed.size_bytes and not await _reads(disk, name, replayed.size_bytes - 1):
        await disk.create(
            name, replayed.size_bytes
        )  # the file was cut short: room for what follows is promised
    if replayed.batches and position.last:
        length = position.offset - position.last
        data = await disk.read(name, position.last, length)
        await disk.commit(
            name, position.last, [data.ljust(length, b"\0")]
        )  # of a file cut short, only padding is gone
    if replayed.torn:
        await disk.commit(name, position.offset, [bytes(BLOCK)])


async def _reads(disk: Disk, name: str, offset: int) -> bool:
    """Whether the file has this byte; one that the disk cannot give back is there."""
    try:
        return bool(await disk.read(name, offset, 1))
    except IntegrityError:
        return True


def _without(rot: Rot, dead: frozenset[tuple[int, int]]) -> Rot:
    """What scrub found before and had written again needs nobody any more."""
    return replace(
        rot,
        keys=tuple(each for each in rot.keys if (rot.life, each[2]) not in dead),
        missing=tuple(sequence for sequence in rot.missing if (rot.life, sequence) not in dead),
    )


def _consequences(
    indexer: Indexer, rots: Sequence[Rot]
) -> tuple[tuple[tuple[KillRecord | PartitionRecord, int], ...], tuple[str, ...]]:
    """What rot means: which records have to be written because of it, and what to tell the operator."""
    tables = indexer.tables
    known, dead = tables.lost_sequences(), tables.killed()
    kills: list[KillRecord] = []
    partitions: dict[tuple[int, int], PartitionRecord] = {}
    told: list[str] = []
    for rot in (_without(each, dead) for each in rots):
        where = f"volume {rot.volume} at {rot.offset}"
        lost = list(rot.missing[:1])
        if rot.missing:
            told.append(f"{where}: {len(rot.missing)} records are unreadable")
        for kind, key, sequence in rot.keys:
            told.append(f"{where}: record {sequence} ({RecordType(kind).name}) is broken")
            if kind == RecordType.REGISTER:
                _ = indexer.mark_rotten(key, sequence)
            elif kind == RecordType.PARTITION:
                place = partition_of(key)
                if tables.sequence_of(PartitionRecord, key) < sequence:
                    partitions[place] = replace(tables.partition(*place), not_voting=ROT_REASON)
            elif kind in _WHOLE_STORE:
                lost.append(sequence)
        kills += [KillRecord(rot.life, sequence) for sequence in lost if sequence not in known]
    if kills:
        for record in tables.partitions():
            partitions[record.pool, record.partition] = replace(record, not_voting=ROT_REASON)
    repairs: list[tuple[KillRecord | PartitionRecord, int]] = [(kill, log_format.FLAG_ROT) for kill in kills]
    repairs += [(record, 0) for _, record in sorted(partitions.items())]
    return tuple(repairs), tuple(told)
