"""Volumes: the preallocated files of the log, their names, and how the next one begins.

Knows nothing of batches or records. A volume may exist before it is needed (a spare); it belongs to the log from the
moment its first block is durable.
"""

from __future__ import annotations

from typing import Final

from holdfast_node.core import log_format
from holdfast_node.core.errors import IntegrityError
from holdfast_node.core.ids import StoreId
from holdfast_node.core.log_format import BLOCK, Position, VolumeHeader
from holdfast_node.ports import Disk, Entropy

_PREFIX: Final = "volume-"


def volume_name(number: int) -> str:
    return f"{_PREFIX}{number:010d}"


def volume_numbers(names: list[str]) -> list[int]:
    """The volumes among these files, in order."""
    found = (name.removeprefix(_PREFIX) for name in names if name.startswith(_PREFIX))
    return sorted(int(digits) for digits in found if digits.isdecimal())


class Volumes:
    """Makes volumes of one size for one store."""

    def __init__(self, disk: Disk, entropy: Entropy, store: StoreId, *, volume_bytes: int) -> None:
        assert volume_bytes % BLOCK == 0, "volumes are whole blocks"
        self._disk = disk
        self._entropy = entropy
        self._store = store
        self._made = set(volume_numbers(disk.names()))
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

    @property
    def made_bytes(self) -> int:
        """What all volumes take on the disk."""
        return len(self._made) * self.volume_bytes

    def unused_bytes(self, position: Position) -> int:
        """Room for records in volumes that exist already."""
        spares = sum(1 for number in self._made if number > position.volume)
        return max(0, self.size_bytes - position.offset) + spares * (self.volume_bytes - BLOCK)


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
