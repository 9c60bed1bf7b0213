"""Aimed rot: which records lie on a simulated disk, which of them matter, and a flipped bit in one. Asserts nothing."""

from __future__ import annotations

import random
from typing import Final

from holdfast_node.core.log_format import RECORD_HEADER_BYTES, Record, batch_headers, read_batch
from tests.sim.cluster import Machine

WHERE: Final = ("header", "key", "body", "payload")
_CHOOSER: Final = random.Random(1)


def records_of(machine: Machine) -> list[tuple[str, Record]]:
    """Every record on the medium, with its file."""
    found: list[tuple[str, Record]] = []
    for name, file in sorted(machine.platter.files.items()):
        volume = memoryview(bytes(file.durable))
        for at, header in batch_headers(volume, 0):
            found += [(name, record) for record in read_batch(volume[at : at + header.length], at, header)[0]]
    return found


def is_rotten(machine: Machine) -> bool:
    """Whether any batch on the medium is not what was written."""
    volumes = [memoryview(bytes(file.durable)) for file in machine.platter.files.values()]
    return any(
        not read_batch(volume[at : at + header.length], at, header)[1]
        for volume in volumes
        for at, header in batch_headers(volume, 0)
    )


def live(machine: Machine) -> list[tuple[str, Record]]:
    """Records that a row rests on; the node must run."""
    assert machine.node is not None
    verifier = machine.node.store.verifier
    needed = {verifier.rests_on(row_key) for row_key in machine.index.keys}
    return [(name, record) for name, record in records_of(machine) if record.sequence in needed]


def flip(machine: Machine, name: str, record: Record, where: str, chooser: random.Random = _CHOOSER) -> None:
    """One bit in the header, key, body or payload; in the header if there is no such part."""
    extent = record.extent
    key_at = extent.offset + RECORD_HEADER_BYTES
    body_at = key_at + len(record.key)
    places = {
        "header": range(extent.offset, key_at),
        "key": range(key_at, body_at),
        "body": range(body_at, extent.payload_offset),
        "payload": range(extent.payload_offset, extent.payload_offset + extent.payload_length),
    }
    machine.platter.flip(name, chooser.choice(places[where] or places["header"]), 1 << chooser.randrange(8))
