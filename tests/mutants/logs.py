"""Bugs in the log and in opening a store: durability, checksums, rot, boot numbers."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Aim, Edit, Mutant

_COMMITTER: Final = "node/holdfast_node/services/log/committer.py"
_DISK: Final = "node/holdfast_node/adapters/disk.py"
_FORMAT: Final = "node/holdfast_node/core/log_format.py"
_OPENING: Final = "node/holdfast_node/services/log/opening.py"
_RECORDS: Final = "node/holdfast_node/adapters/records.py"
_REGISTER_READER: Final = "node/holdfast_node/services/log/register_reader.py"
_REPLAY: Final = "node/holdfast_node/services/log/replay.py"
_ROCKS: Final = "node/holdfast_node/adapters/rocks.py"
_ROWS: Final = "node/holdfast_node/core/index_rows.py"
_STORE: Final = "node/holdfast_node/services/store.py"
_TABLES: Final = "node/holdfast_node/services/log/tables.py"

_POWER_CUT: Final = "tests/faults/test_power_cut.py"
_TEST_CRASHES: Final = "tests/unit/test_store_crashes.py"
_TEST_INDEX: Final = "tests/conformance/test_index.py"
_TEST_FORMAT: Final = "tests/unit/test_log_format.py"
_TEST_OPENING: Final = "tests/unit/test_store_opening.py"
_TEST_RECORDS: Final = "tests/unit/test_records.py"
_TEST_ROWS: Final = "tests/unit/test_index_rows.py"
_TEST_STORE: Final = "tests/unit/test_store.py"

_CRASHES: Final = Aim(("crash", "power_cut", "all_at_once"))

_COMMIT: Final = "        await self._disk.commit(volume_name(volume), position.offset, batch.buffers)\n"
_ANSWER: Final = (
    "        for group in groups:\n"
    "            if not group.done.done():\n"
    "                group.done.set_result(None)\n"
)

_DURABILITY: Final = (
    Mutant(
        "scan-by-a-borrowed-bound",
        "the library is told where a scan ends, by bytes that nobody keeps",
        (
            Edit(
                _ROCKS,
                "            rows = self._db.iter()\n",
                "            from rocksdict import ReadOptions\n"
                "            options = ReadOptions()\n"
                "            options.set_iterate_upper_bound(end)\n"
                "            rows = self._db.iter(options)\n"
                "            del options\n",
            ),
            Edit(
                _ROCKS,
                "        return self._rows(rows, end)\n",
                '        return self._rows(rows, b"\\xff" * 40)\n',
            ),
        ),
        _TEST_INDEX,
    ),
    Mutant(
        "scan-ends-at-rot",
        "a scan that cannot go on is at its end",
        (Edit(_ROCKS, "            rows.status()\n", ""),),
        _TEST_INDEX,
    ),
    Mutant(
        "no-fdatasync",
        "a commit returns without fdatasync",
        (Edit(_DISK, "    os.fdatasync(descriptor)\n", ""),),
        f"{_POWER_CUT}::test_no_power_cut_loses_what_was_acked",
    ),
    Mutant(
        "no-sync",
        "a commit is acknowledged before it is durable",
        (Edit(_COMMITTER, _COMMIT, _ANSWER + _COMMIT),),
        f"{_POWER_CUT}::test_no_power_cut_loses_what_was_acked",
        _CRASHES,
    ),
    Mutant(
        "next-group-answered-too",
        "a batch that becomes durable answers whoever queued meanwhile",
        (
            Edit(
                _COMMITTER,
                "        for group in groups:\n            if not group.done.done():\n",
                "        for group in (*groups, *self._control, *self._bulk):\n"
                "            if not group.done.done():\n",
            ),
        ),
        _TEST_CRASHES,
    ),
    Mutant(
        "directory-not-synced",
        "a new volume's name is not synced",
        (
            Edit(
                _DISK,
                "        os.close(descriptor)\n    _sync_directory(directory)\n\n\ndef _replace",
                "        os.close(descriptor)\n\n\ndef _replace",
            ),
            Edit(_DISK, "    if directory is not None:\n        _sync_directory(directory)\n", ""),
        ),
        f"{_POWER_CUT}::test_no_power_cut_loses_what_was_acked",
    ),
    Mutant(
        "superblock-renamed-unsynced",
        "the superblock is renamed into place before its bytes are synced",
        (
            Edit(
                _DISK,
                "            left = left[os.write(descriptor, left) :]\n        os.fsync(descriptor)\n",
                "            left = left[os.write(descriptor, left) :]\n",
            ),
        ),
        f"{_POWER_CUT}::test_no_power_cut_loses_what_was_acked",
    ),
    Mutant(
        "failed-sync-forgiven",
        "after a failed write the store goes on",
        (
            Edit(
                _COMMITTER,
                "        except (HoldfastError, IndexBroken, OSError) as error:\n"
                "            self._fail_with(groups, str(error))\n",
                "        except (HoldfastError, IndexBroken, OSError) as error:\n"
                "            for group in groups:\n"
                "                _reject(group, StoreFailed(str(error)))\n",
            ),
        ),
        _TEST_STORE,
    ),
    Mutant(
        "tail-not-resynced",
        "the batch that replay read last is not made durable again",
        (Edit(_OPENING, "if replayed.batches and position.last:", "if False:"),),
        _TEST_CRASHES,
    ),
    Mutant(
        "torn-batch-stays",
        "a torn batch stays on the disk, half readable",
        (Edit(_OPENING, "    if replayed.torn:\n", "    if False:\n"),),
        _TEST_CRASHES,
    ),
    Mutant(
        "boot-stands-still",
        "a start does not raise the boot number",
        (Edit(_STORE, "superblock, boot=superblock.boot + 1,", "superblock, boot=superblock.boot,"),),
        _TEST_OPENING,
    ),
    Mutant(
        "boot-not-written",
        "a start raises the boot number in memory only",
        (
            Edit(
                _STORE,
                "        await self._write_superblock(self.superblock)\n        self._committer",
                "        self._committer",
            ),
        ),
        _TEST_OPENING,
    ),
    Mutant(
        "reserve-ignored",
        "bulk writes use up the reserve",
        (
            Edit(
                _COMMITTER,
                "if self.bulk_room_bytes + extra_bytes < length:\n            raise",
                "if False:\n            raise",
            ),
        ),
        _TEST_STORE,
    ),
    Mutant(
        "mending-takes-all",
        "heal uses up what is kept for registers",
        (Edit(_COMMITTER, "MENDING_SHARE: Final = 3", "MENDING_SHARE: Final = 1"),),
        _TEST_STORE,
    ),
)

_CHECKSUMS: Final = (
    Mutant(
        "record-unchecked",
        "a record is whole whatever its checksum says",
        (Edit(_FORMAT, "whole = hasher.digest() == header[fields_end:]", "whole = True"),),
        _TEST_FORMAT,
    ),
    Mutant(
        "record-key-unchecked",
        "a record's header and key are believed unchecked",
        (
            Edit(
                _FORMAT,
                "if header[_RECORD.size : fields_end] != xxh3_64_digest(fields + key, life):",
                "if False:",
            ),
        ),
        _TEST_FORMAT,
    ),
    Mutant(
        "batch-unchecked",
        "a batch is right whatever its checksum says",
        (
            Edit(
                _FORMAT,
                '        and xxh3_64_intdigest(b"".join(headers), header.life) == header.checksum\n',
                "",
            ),
        ),
        _TEST_FORMAT,
    ),
    Mutant(
        "batch-header-unchecked",
        "a batch's header is believed unchecked",
        (
            Edit(
                _FORMAT,
                "if written != _FORMAT or header[_BATCH.size : end] != xxh3_64_digest(header[: _BATCH.size], life):",
                "if written != _FORMAT:",
            ),
        ),
        _TEST_FORMAT,
    ),
    Mutant(
        "any-life",
        "records of an earlier life of the volume pass",
        (
            Edit(
                _FORMAT,
                "or wrote != life or key_bytes > KEY_BYTES_MAX:\n        return None\n",
                "or key_bytes > KEY_BYTES_MAX:\n        return None\n    life = wrote\n",
            ),
        ),
        _TEST_FORMAT,
    ),
    Mutant(
        "superblock-unchecked",
        "the superblock is believed unchecked",
        (Edit(_FORMAT, "if content[end:] != xxh3_128_digest(content[:end]):", "if False:"),),
        _TEST_FORMAT,
    ),
    Mutant(
        "chain-unchecked",
        "a batch need not continue the one before it",
        (
            Edit(
                _REPLAY,
                "if header.previous != position.previous or header.first_sequence != position.sequence:",
                "if False:",
            ),
        ),
        _TEST_CRASHES,
    ),
)

_ROT: Final = (
    Mutant(
        "rot-is-torn",
        "a bad batch ends the log even if later ones are whole",
        (
            Edit(
                _REPLAY,
                "            if found is None:\n                return\n",
                "            if found is None or found:\n                return\n",
            ),
        ),
        _TEST_CRASHES,
    ),
    Mutant(
        "mark-ignored",
        "a rotten end of the log is taken for a torn one, whatever the superblock knows of",
        (Edit(_REPLAY, "if position.batch <= mark.batch:", "if False:"),),
        _TEST_OPENING,
    ),
    Mutant(
        "torn-is-rot",
        "a torn batch at the end is taken for rot",
        (Edit(_REPLAY, "if position.batch <= mark.batch:", "if position.batch <= mark.batch + 1:"),),
        _TEST_CRASHES,
    ),
    Mutant(
        "rotten-key-votes",
        "a register whose record rotted is taken for absent",
        (
            Edit(
                _REGISTER_READER,
                "            if entry.rotten:\n                raise _rotten_register()\n            with",
                "            if entry.rotten:\n                return None\n            with",
            ),
        ),
        _TEST_OPENING,
    ),
    Mutant(
        "rotten-key-listed-past",
        "a listing passes over a key that it cannot read",
        (
            Edit(
                _REGISTER_READER,
                "            if entry.unknown:\n"
                "                raise _rotten_register()\n"
                "            if entry.accepted is None:\n"
                "                continue\n"
                "            if len(rows)",
                "            if entry.accepted is None:\n                continue\n            if len(rows)",
            ),
        ),
        _TEST_OPENING,
    ),
    Mutant(
        "rotten-key-not-taught",
        "a learner is taught past a key that cannot be read",
        (
            Edit(
                _REGISTER_READER,
                "                if entry.unknown:\n"
                "                    raise _rotten_register()\n"
                "                if entry.accepted is None:\n"
                "                    continue\n"
                "                if len(wanted)",
                "                if entry.accepted is None:\n"
                "                    continue\n"
                "                if len(wanted)",
            ),
        ),
        _TEST_OPENING,
    ),
    Mutant(
        "copies-in-one-step",
        "a node does nothing else while it looks for a page of registers",
        (Edit(_REGISTER_READER, "            await asyncio.sleep(0)\n", ""),),
        "tests/unit/test_register_copies.py",
    ),
    Mutant(
        "unreadable-rot-is-harmless",
        "records of which not even the key can be read cost no vote",
        (
            Edit(
                _TABLES,
                'not_voting=ROT_REASON if self.lost_sequences() else "",',
                'not_voting="",',
            ),
        ),
        _TEST_OPENING,
    ),
    Mutant(
        "known-partitions-keep-voting",
        "unreadable rot costs the vote only where nothing was known of the partition",
        (
            Edit(
                _OPENING,
                "            partitions[record.pool, record.partition] = replace(record, not_voting=ROT_REASON)\n"
                "    repairs",
                "            del record\n    repairs",
            ),
        ),
        _TEST_OPENING,
    ),
    Mutant(
        "lost-map-votes",
        "a store that may have lost a vote on maps votes on",
        (
            Edit(
                _TABLES,
                "        if self.lost_sequences():\n            raise NotVoting(",
                "        if False:\n            raise NotVoting(",
            ),
        ),
        _TEST_OPENING,
    ),
    Mutant(
        "stale-cache",
        "a register is read from the cache although a newer record is durable",
        (
            Edit(
                _STORE,
                "                self._registers.put(entry.key, entry.body)\n",
                "                pass\n",
            ),
        ),
        _TEST_STORE,
    ),
    Mutant(
        "older-fact-wins",
        "replay lets an older record replace a newer fact",
        (Edit(_TABLES, "if known is None or known.sequence <= sequence:", "if True:"),),
        _TEST_CRASHES,
    ),
    Mutant(
        "older-register-wins",
        "replay lets an older record replace a newer register",
        (
            Edit(
                "node/holdfast_node/core/index_updates.py",
                "if not newest and _register_sequence(rows, entry.key, row) > entry.sequence:",
                "if False:",
            ),
        ),
        _TEST_ROWS,
    ),
    Mutant(
        "drop-undone-by-order",
        "a shard that was dropped comes back when its seal is found later",
        (Edit(_ROWS, "return self.sealed > self.dropped", "return self.sealed > 0"),),
        _TEST_ROWS,
    ),
)

_OPENINGS: Final = (
    Mutant(
        "empty-directory-formatted",
        "an empty data directory becomes a new store unasked",
        (Edit(_OPENING, "if not format_if_empty:", "if False:"),),
        _TEST_OPENING,
    ),
    Mutant(
        "lost-log-accepted",
        "a store whose log is gone opens as an empty one",
        (Edit(_OPENING, "if mark.batch and not volume_numbers(names):", "if False:"),),
        _TEST_OPENING,
    ),
    Mutant(
        "foreign-directory-accepted",
        "another node's directory is opened",
        (Edit(_OPENING, "if found.node != node:", "if False:"),),
        _TEST_OPENING,
    ),
    Mutant(
        "index-ahead-of-log",
        "the index is believed although the log was rolled back under it",
        (
            Edit(
                _OPENING,
                "if position is not None and await _agrees(ports.disk, position):",
                "if position is not None:",
            ),
        ),
        _TEST_OPENING,
    ),
)

_BODIES: Final = (
    Mutant(
        "id-of-any-length",
        "an id that was cut short on its way is taken as it came",
        (
            Edit(
                _RECORDS,
                'f"{found} if len(x := m.{name}) in lengths else malformed_id({name!r}, x)"',
                'f"{found} if len(x := m.{name}) < 999 else malformed_id({name!r}, x)"',
            ),
        ),
        _TEST_RECORDS,
    ),
    Mutant(
        "none-is-zero",
        "a message that is not there comes back as one whose fields are zero",
        (Edit(_RECORDS, 'f"{read}(m.{name}) if m.HasField({name!r}) else {absent}"', 'f"{read}(m.{name})"'),),
        _TEST_RECORDS,
    ),
)

MUTANTS: Final = (*_DURABILITY, *_CHECKSUMS, *_ROT, *_OPENINGS, *_BODIES)
