"""Volumes: the preallocated files of the log, their names, and how the next one begins.

Knows nothing of batches or records. A volume may exist before it is needed (a spare); it belongs to the log from the
moment its first block is durable.
"""

from __future__ import annotations

from typing import Final

from holdfast_node.core import log_format
from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.holes import covers
from holdfast_node.core.log_format import BLOCK, Position, VolumeHeader
from holdfast_node.core.records import Hole, Superblock
from holdfast_node.ports import Disk, Entropy

_PREFIX: Final = "volume-"


def volume_name(number: int) -> str:
    return f"{_PREFIX}{number:010d}"


def volume_numbers(names: list[str]) -> list[int]:
    """The volumes among these files, in order."""
    found = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    return sorted(int(digits) for digits in found if digits.isdecimal())


class Volumes:
    """Makes volumes of one size for one store, and takes them away again. `holes` is what was taken."""

    def __init__(self, disk: Disk, entropy: Entropy, superblock: Superblock, *, volume_bytes: int) -> None:
        assert volume_bytes % BLOCK == 0, "volumes are whole blocks"
        self._disk = disk
        self._entropy = entropy
        self._store = superblock.store
        self._made = set(volume_numbers(disk.names()))
        self.holes = superblock.holes
        self.volume_bytes = volume_bytes
        self.size_bytes = volume_bytes
        """Of the volume in use, which an earlier run may have made in another size."""

    async def begin(self, position: Position) -> Position:
        """The start of the next volume, whose first block is durable on return; the chain goes on from `position`."""
        number = position.volume + 1
        await self._disk.create(volume_name(number), self.volume_bytes)
        self._made.add(number)
        header = VolumeHeader(
            number=number,
            life=int.from_bytes(self._entropy.token(8), "big"),
            size_bytes=self.volume_bytes,
            first_batch=position.batch,
            first_sequence=position.sequence,
            previous=position.previous,
            store=self._store,
        )
        await self._disk.commit(volume_name(number), 0, [log_format.encode_volume_header(header)])
        self.size_bytes = self.volume_bytes
        return start_of(header)

    async def make_spare(self, number: int) -> None:
        """Preallocate volume `number` ahead of its use. `StoreFull` if there is no room."""
        if number not in self._made:
            await self._disk.create(volume_name(number), self.volume_bytes)
            self._made.add(number)

    def leave_out(self, number: int, holes: tuple[Hole, ...]) -> None:
        """The volume is in a hole of the superblock now: whoever looks at the log from now on passes over it."""
        self.holes = holes
        self._made.discard(number)

    async def remove(self, number: int) -> None:
        """Give the room of a volume back that is left out, and that nobody reads any more."""
        assert covers(self.holes, number), "a volume goes only once it is written down that it does"
        await self._disk.remove(volume_name(number))

    def numbers(self) -> list[int]:
        """Those of the log, and spares, in order."""
        return sorted(self._made)

    @property
    def made_bytes(self) -> int:
        """What all volumes take on the disk."""
        return len(self._made) * self.volume_bytes

    def spares(self, position: Position) -> int:
        """How many volumes exist that are not in use yet."""
        return sum(1 for number in self._made if number > position.volume)

    def unused_bytes(self, position: Position) -> int:
        """Room for records in volumes that exist already."""
        spare_bytes = self.spares(position) * (self.volume_bytes - BLOCK)
        return max(0, self.size_bytes - position.offset) + spare_bytes


def start_of(header: VolumeHeader) -> Position:
    """Where the volume's first batch goes."""
    return Position(
        volume=header.number,
        life=header.life,
        offset=BLOCK,
        batch=header.first_batch,
        sequence=header.first_sequence,
        previous=header.previous,
    )


async def read_header(disk: Disk, number: int) -> VolumeHeader | None:
    """The volume's first block; None if it is blank, broken, or of another volume."""
    try:
        block = await disk.read(volume_name(number), 0, BLOCK)
    except IntegrityError:
        return None
    header = log_format.decode_volume_header(block)
    return header if header is not None and header.number == number else None
