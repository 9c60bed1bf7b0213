"""Rows of the index: their order, and that the newest record wins in whatever order records are found."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from holdfast_node.core import index_keys, index_rows, index_updates
from holdfast_node.core.acceptance import blank
from holdfast_node.core.head import Head
from holdfast_node.core.ids import BucketId
from holdfast_node.core.index_keys import RecordBody
from holdfast_node.core.index_overlay import Rows
from holdfast_node.core.index_rows import Location, Logged
from holdfast_node.core.messages import ShardName
from holdfast_node.core.records import (
    DropRecord,
    LinkRecord,
    ManifestRecord,
    MapRecord,
    RecordType,
    RegisterRecord,
    StageRecord,
)
from tests.sim.index import SimIndex
from tests.support import stores

SEED = stores.blob_id(1)
NAME = ShardName(SEED, 0, 0)


def logged(sequence: int, body: RecordBody, *, flags: int = 0) -> Logged:
    head = None
    if isinstance(body, RegisterRecord) and body.accepted is not None:
        head = stores.BODIES.decode(Head, body.head)
    key = index_keys.record_key(body, blob_id=stores.blob_id(9))
    at = Location(1, sequence * 4096, 100)
    return Logged(sequence, flags, key, body, stores.BODIES.encode(body), at, sequence * 4096 + 80, 20, head)


def apply_all(entries: Iterable[Logged]) -> dict[bytes, bytes]:
    """The rows after these records, each written on its own, as replay would."""
    index, highest = SimIndex(), 0
    for entry in entries:
        rows = Rows(index.get, index.scan)
        index_updates.apply(rows, entry, newest=entry.sequence > highest)
        highest = max(highest, entry.sequence)
        index.write(list(rows.puts.items()), list(rows.deletes))
    return index.content.rows


def seal_entry(cells: int) -> RecordBody:
    return stores.seal(SEED, [b"x"] * cells).body


HISTORIES: dict[str, Sequence[RecordBody]] = {
    "register": [stores.promise(b"k", 1), stores.register(b"k", 2), stores.register(b"k", 3)],
    "seal, drop, seal": [seal_entry(1), DropRecord(SEED, 0, 0), seal_entry(2)],
    "seal, drop": [seal_entry(1), DropRecord(SEED, 0, 0)],
    "stage, seal, stage": [
        StageRecord(stores.BUCKET, b"k", SEED, 0, 0, stores.ballot(1), 0),
        seal_entry(3),
        StageRecord(stores.BUCKET, b"k", SEED, 0, 0, stores.ballot(2), 0),
    ],
    "cell, drop, cell": [
        stores.cell(SEED, 0, b"a").body,
        DropRecord(SEED, 0, 0),
        stores.cell(SEED, 1, b"b").body,
    ],
    "map": [MapRecord(b"1"), MapRecord(b"2"), MapRecord(b"3")],
    "partition": [
        stores.partition(1, version_floor=1),
        stores.partition(2),
        stores.partition(1, version_floor=5),
    ],
}


@pytest.mark.parametrize("history", HISTORIES.values(), ids=HISTORIES)
def test_the_order_of_finding_does_not_matter(history: Sequence[RecordBody]) -> None:
    entries = [logged(sequence, body) for sequence, body in enumerate(history, 1)]
    expected = apply_all(entries)
    for order in itertools.permutations(entries):
        assert apply_all(order) == expected


def test_a_drop_kills_the_seal_and_its_cells_and_a_later_seal_revives_it() -> None:
    history: list[RecordBody] = [stores.cell(SEED, 0, b"a").body, seal_entry(1), DropRecord(SEED, 0, 0)]
    entries = [logged(sequence, body) for sequence, body in enumerate(history, 1)]
    rows = apply_all(entries)
    assert not index_rows.decode_shard(rows[index_keys.shard_row_key(NAME)]).is_sealed
    assert index_keys.cell_row_key(NAME, 0) not in rows
    rows = apply_all([*entries, logged(4, stores.cell(SEED, 0, b"a").body), logged(5, seal_entry(1))])
    assert index_rows.decode_shard(rows[index_keys.shard_row_key(NAME)]).is_sealed
    assert index_keys.cell_row_key(NAME, 0) in rows


def test_a_drop_in_the_batch_of_its_cells_takes_them_too() -> None:
    index = SimIndex()
    rows = Rows(index.get, index.scan)
    for sequence, body in enumerate((stores.cell(SEED, 0, b"a").body, DropRecord(SEED, 0, 0)), 1):
        index_updates.apply(rows, logged(sequence, body), newest=True)
    assert index_keys.cell_row_key(NAME, 0) not in rows.puts


def test_a_blank_register_has_a_row_apart_and_nothing_else() -> None:
    record = stores.register(b"k", 7)
    entries = [logged(1, record), logged(2, blank(record)), logged(3, stores.promise(b"k", 9))]
    key = stores.BUCKET + b"k"
    for order in itertools.permutations(entries[:2]):
        rows = apply_all(order)
        assert {row[:1] for row in rows} == {index_keys.BLANK_ROWS, index_keys.MANIFEST_ROWS}
        assert index_rows.decode_blank(rows[index_keys.BLANK_ROWS + key]).before == 2
    for order in itertools.permutations(entries):
        rows = apply_all(order)
        assert index_keys.BLANK_ROWS + key not in rows
        assert index_rows.only_promised(rows[index_keys.REGISTER_ROWS + key]) == stores.ballot(9)


def test_a_register_that_was_made_blank_is_not_rotten_for_an_older_record() -> None:
    index = SimIndex()
    rows = Rows(index.get, index.scan)
    record = stores.register(b"k", 7)
    index_updates.apply(rows, logged(5, blank(record)), newest=True)
    key = stores.BUCKET + b"k"
    assert not index_updates.apply_rot(rows, key, 4)
    assert index_updates.apply_rot(rows, key, 6)
    assert index_keys.BLANK_ROWS + key not in rows.puts
    assert index_rows.decode_register_entry(rows.puts[index_keys.REGISTER_ROWS + key]).unknown


def test_summaries_come_from_the_row_alone() -> None:
    record = stores.register(b"k", 7, partition=3)
    rows = apply_all([logged(1, record)])
    key = index_keys.register_row_key(stores.BUCKET, b"k")
    row = index_rows.decode_register_row(b"k", rows[key])
    manifest = stores.manifest(7)
    assert (row.key, row.pool, row.partition, row.ballot) == (b"k", 0, 3, stores.ballot(7))
    assert (row.version, row.kind, row.size, row.hash) == (7, 1, manifest.size, manifest.hash)
    assert (row.content_type, row.head_hash) == ("text/plain", index_rows.head_hash(record.head))


def test_a_promise_alone_is_no_summary() -> None:
    rows = apply_all([logged(1, stores.promise(b"k", 1))])
    assert not index_rows.decode_register_entry(
        rows[index_keys.register_row_key(stores.BUCKET, b"k")]
    ).accepted


def test_manifests_of_all_accepted_heads_stay() -> None:
    learned = ManifestRecord(stores.BUCKET, b"k", stores.BODIES.encode(stores.manifest(9)))
    rows = apply_all(
        [logged(1, stores.register(b"k", 1)), logged(2, stores.register(b"k", 2)), logged(3, learned)]
    )
    for number, sequence, kind in (
        (1, 1, RecordType.REGISTER),
        (2, 2, RecordType.REGISTER),
        (9, 3, RecordType.MANIFEST),
    ):
        row = rows[index_keys.manifest_row_key(stores.BUCKET, b"k", stores.blob_id(number))]
        location, found, _ = index_rows.decode_manifest_row(row)
        assert (location.offset, found) == (sequence * 4096, kind)


def test_rot_counts_unless_a_younger_record_replaced_it() -> None:
    index = SimIndex()
    rows = Rows(index.get, index.scan)
    index_updates.apply(rows, logged(5, stores.register(b"k", 5, partition=4)), newest=True)
    key = stores.BUCKET + b"k"
    assert not index_updates.apply_rot(rows, key, 4)
    assert index_updates.apply_rot(rows, key, 5)
    entry = index_rows.decode_register_entry(rows.puts[index_keys.REGISTER_ROWS + key])
    assert entry.rotten
    assert entry.partition == 4
    index_updates.apply(rows, logged(6, stores.register(b"k", 6)), newest=True, rotten=True)
    assert not index_rows.decode_register_entry(rows.puts[index_keys.REGISTER_ROWS + key]).rotten
    assert index_keys.ROTTEN_ROWS + key in rows.deletes


def test_links_are_rows() -> None:
    rows = apply_all([logged(1, LinkRecord(SEED, stores.blob_id(2)))])
    assert index_keys.LINK_ROWS + SEED + stores.blob_id(2) in rows


keys = st.binary(min_size=1, max_size=8)
buckets = st.binary(min_size=16, max_size=16).map(BucketId)


@given(buckets, buckets, keys, keys)
def test_register_rows_sort_by_bucket_then_key(
    one: BucketId, two: BucketId, first: bytes, second: bytes
) -> None:
    rows = index_keys.register_row_key(one, first), index_keys.register_row_key(two, second)
    assert (rows[0] < rows[1]) == ((one, first) < (two, second))


@given(keys, keys)
def test_manifest_rows_of_two_keys_never_meet(first: bytes, second: bytes) -> None:
    rows = {index_keys.manifest_row_key(stores.BUCKET, key, SEED) for key in (first, second)}
    assert len(rows) == len({first, second})


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_the_end_of_a_prefix_is_the_end(prefix: bytes, rest: bytes) -> None:
    prefix = b"k" + prefix
    assert prefix + rest < index_keys.prefix_end(prefix)
    assert not index_keys.prefix_end(prefix).startswith(prefix)
