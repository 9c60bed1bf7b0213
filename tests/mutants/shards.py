"""Bugs around shards: checksums of cells, ranges, placement, acks, memory."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Aim, Edit, Mutant

_BUDGET: Final = "node/holdfast_node/services/budget.py"
_CELLS: Final = "node/holdfast_node/services/cells.py"
_CHECKSUMS: Final = "node/holdfast_node/core/checksums.py"
_FRAMES: Final = "node/holdfast_node/services/link/frames.py"
_GEOMETRY: Final = "node/holdfast_node/core/geometry.py"
_GET: Final = "node/holdfast_node/services/get.py"
_CODES: Final = "node/holdfast_node/core/codes.py"
_HOLDERS: Final = "node/holdfast_node/core/holders.py"
_KEEPER: Final = "node/holdfast_node/services/keeper.py"
_MARGIN: Final = "node/holdfast_node/core/margin.py"
_PLACEMENT: Final = "node/holdfast_node/core/placement.py"
_PROVE: Final = "node/holdfast_node/services/prove.py"
_PUT: Final = "node/holdfast_node/services/put.py"
_REBUILD: Final = "node/holdfast_node/services/rebuild.py"
_SHARD_READER: Final = "node/holdfast_node/services/log/shard_reader.py"
_STREAMING: Final = "node/holdfast_node/services/streaming.py"
_STRIPING: Final = "node/holdfast_node/services/striping.py"
_TRANSFER: Final = "client/holdfast/core/transfer.py"
_UNDELETE: Final = "node/holdfast_node/services/undelete.py"

_TEST_GEOMETRY: Final = "tests/properties/test_geometry.py"
_TEST_HOLDERS: Final = "tests/properties/test_holders.py"
_TEST_KEEPER: Final = "tests/unit/test_keeper.py"
_TEST_MARGIN: Final = "tests/properties/test_margin.py"
_TEST_MENDING: Final = "tests/unit/test_mending.py"
_TEST_OUTCOMES: Final = "tests/unit/test_put_outcomes.py"
_TEST_PUT_GET: Final = "tests/unit/test_put_get.py"
_TEST_RISK: Final = "tests/unit/test_risk.py"

_RIGHT_BYTES: Final = (
    Mutant(
        "no-cell-checksum",
        "cells have no checksum at all",
        (
            Edit(
                _CHECKSUMS,
                "    digest = xxhash.xxh3_128(_BINDING.pack(seed_id, part, index, stripe, len(cell)))\n"
                "    digest.update(cell)\n"
                "    return Digest(digest.digest())",
                "    return Digest(bytes(DIGEST_BYTES))",
            ),
        ),
        _TEST_PUT_GET,
        Aim(("rot",), keys=24, rounds=15),
    ),
    Mutant(
        "cell-anywhere",
        "a cell's checksum does not say where the cell belongs",
        (Edit(_CHECKSUMS, "_BINDING.pack(seed_id, part, index, stripe, len(cell))", 'b""'),),
        _TEST_KEEPER,
    ),
    Mutant(
        "cell-unchecked-on-arrival",
        "a holder keeps a cell that did not arrive as it was sent",
        (Edit(_KEEPER, "if cell_checksum(*_place(name), stripe, payload) != checksum:", "if False:"),),
        _TEST_KEEPER,
    ),
    Mutant(
        "cell-unchecked-at-holder",
        "a holder gives out a cell that broke on its disk",
        (
            Edit(
                _SHARD_READER,
                "if cell_checksum(name.seed_id, name.part, name.index, stripe, cell) != at.checksum:",
                "if False:",
            ),
        ),
        "tests/unit/test_store.py",
    ),
    Mutant(
        "cell-unchecked-at-coordinator",
        "a coordinator believes the cells it is sent",
        (Edit(_CELLS, "if checksum != known[stripe]:", "if False:"),),
        _TEST_PUT_GET,
    ),
    Mutant(
        "checksums-unchecked-at-coordinator",
        "a coordinator believes the list of checksums a holder sends along",
        (
            Edit(
                _CELLS,
                "if len(known) != source.stripe_count or shard_checksum(known) != source.shard_checksums[index]:",
                "if False:",
            ),
        ),
        _TEST_PUT_GET,
    ),
    Mutant(
        "blob-hash-unchecked",
        "a whole read ends cleanly whatever it hashes to",
        (Edit(_GET, "and hasher.digest() != self._manifest.hash:", "and False:"),),
        _TEST_PUT_GET,
    ),
    Mutant(
        "blob-hash-unchecked-by-caller",
        "the SDK gives out a whole blob whatever it hashes to",
        (
            Edit(
                _TRANSFER,
                "if self.whole and self.info.hash and self._digest.digest()",
                "if False and self._digest.digest()",
            ),
        ),
        "tests/unit/test_sdk_core.py",
    ),
    Mutant(
        "encoding-unchecked",
        "what was encoded is not decoded before the ack",
        (Edit(_STRIPING, "            if decoded != cells[index]:\n", "            if False:\n"),),
        "tests/properties/test_codec.py",
    ),
    Mutant(
        "encoding-half-checked",
        "the check of an encoding leaves out the last parity cell",
        (
            Edit(
                _CODES,
                "range(first, min(first + code.k, code.n))",
                "range(first, max(first + 1, min(first + code.k, code.n) - 1))",
            ),
        ),
        "tests/properties/test_codec.py",
    ),
    Mutant(
        "rebuild-unchecked",
        "a rebuilt shard is sealed whatever it has become",
        (
            Edit(
                _REBUILD,
                "if shard_checksum(self._checksums[index]) == self._source.shard_checksums[index]:",
                "if True:",
            ),
        ),
        _TEST_MENDING,
    ),
    Mutant(
        "request-run-twice",
        "a link runs a request that comes a second time",
        (
            Edit(
                "node/holdfast_node/services/link/inbound.py",
                "        if frame.request_id <= self._last_request:\n",
                "        if frame.request_id < 0:\n",
            ),
        ),
        "tests/unit/test_link_strangers.py",
    ),
    Mutant(
        "frame-unchecked",
        "a frame of a link is believed unchecked",
        (
            Edit(
                _FRAMES,
                "if digest.intdigest() != _SUM.unpack_from(message, start + _HEAD.size)[0]:",
                "if False:",
            ),
        ),
        "tests/unit/test_link_frames.py",
    ),
    Mutant(
        "range-one-cell-short",
        "a range that ends inside a cell does not fetch it",
        (
            Edit(
                _GEOMETRY,
                "-(-self.last // self.cell_size))",
                "max(self.first // self.cell_size + 1, self.last // self.cell_size))",
            ),
        ),
        _TEST_GEOMETRY,
    ),
    Mutant(
        "stripe-edge",
        "a range that begins inside a stripe reads beyond its end",
        (
            Edit(
                _GEOMETRY,
                "take = min(stripe_size - in_stripe, last - at)",
                "take = min(stripe_size, last - at)",
            ),
        ),
        _TEST_GEOMETRY,
    ),
    Mutant(
        "last-stripe-is-full",
        "the last stripe of a part is taken for a full one",
        (
            Edit(
                _GEOMETRY,
                "return min(stripe_bytes, part_size - stripe * stripe_bytes)",
                "return stripe_bytes",
            ),
        ),
        _TEST_GEOMETRY,
    ),
    Mutant(
        "long-key",
        "a key may be one byte longer than the limit",
        (Edit(_PUT, "if not 1 <= len(key) <= KEY_BYTES_MAX:", "if not 1 <= len(key) <= KEY_BYTES_MAX + 1:"),),
        _TEST_OUTCOMES,
    ),
    Mutant(
        "memory-over-budget",
        "more memory is granted than there is",
        (
            Edit(
                _BUDGET, "if self._waiting or count > self._free:", "if self._waiting or count > self._limit:"
            ),
        ),
        "tests/unit/test_budget.py",
    ),
    Mutant(
        "memory-leak",
        "a waiter that leaves after its turn came keeps the memory",
        (
            Edit(
                _BUDGET,
                "                self.give_back(count)\n            elif",
                "                pass\n            elif",
            ),
        ),
        "tests/unit/test_budget.py",
    ),
    Mutant(
        "memory-out-of-turn",
        "a small request overtakes a large one that waits for memory",
        (Edit(_BUDGET, "if self._waiting or count > self._free:", "if count > self._free:"),),
        "tests/unit/test_budget.py",
    ),
)

_PLACES: Final = (
    Mutant(
        "ack-floor-lowered",
        "an ack survives no loss of a node",
        (
            Edit(
                _HOLDERS,
                'for lost in set(at.values()) or {""}:',
                'for lost in {""}:',
            ),
        ),
        _TEST_HOLDERS,
    ),
    Mutant(
        "ack-unchecked",
        "a put of one stripe is acked whatever was sealed",
        (Edit(_PUT, "                staging.placing.check_ack()\n", ""),),
        _TEST_OUTCOMES,
    ),
    Mutant(
        "long-ack-unchecked",
        "a part of a long put is acked whatever was sealed",
        (
            Edit(
                _STREAMING,
                "        self.placing.check_ack()\n        return digests",
                "        return digests",
            ),
        ),
        _TEST_OUTCOMES,
    ),
    Mutant(
        "handoff-in-the-same-domain",
        "a handoff may put one shard too many into a domain",
        (Edit(_HOLDERS, "counts[domains[store]] < self._limit", "counts[domains[store]] <= self._limit"),),
        _TEST_HOLDERS,
    ),
    Mutant(
        "doubled-on-one-node",
        "shards without a store of their own are all doubled on one node",
        (Edit(_HOLDERS, "return at_node, over, crowd, tie", "return 0, over, 0, 0"),),
        _TEST_HOLDERS,
    ),
    Mutant(
        "domain-cap+1",
        "a table of homes may put one shard too many into a domain",
        (
            Edit(
                _PLACEMENT,
                "domains_of(ordered, protected_tags, cap)",
                "domains_of(ordered, protected_tags, cap + 1)",
            ),
        ),
        "tests/properties/test_placement.py",
    ),
    Mutant(
        "voters-in-one-domain",
        "a domain may hold half of the voters",
        (Edit(_PLACEMENT, "range(1, (size - 1) // 2 + 1)", "range((size + 1) // 2, size)"),),
        "tests/properties/test_placement.py",
    ),
    Mutant(
        "index-not-kept",
        "a store that keeps a partition may get another shard index",
        (Edit(_PLACEMENT, "index = before.slots[partition].get(at)", "index = None"),),
        "tests/properties/test_placement.py",
    ),
    Mutant(
        "margin+1",
        "a margin is one domain too many",
        (
            Edit(
                _MARGIN,
                "        if spare < 0:\n            return survived",
                "        if spare < -1:\n            return survived",
            ),
        ),
        _TEST_MARGIN,
    ),
    Mutant(
        "margin-over-domains",
        "a margin of shards held twice is one domain too many",
        (Edit(_MARGIN, "return gone - 1", "return gone"),),
        _TEST_MARGIN,
    ),
    Mutant(
        "margin-of-the-dead",
        "shards of stores that are down count for the margin",
        (
            Edit(
                _MARGIN,
                "if topology.node(store) is not None and up(store))",
                "if topology.node(store) is not None)",
            ),
        ),
        _TEST_MARGIN,
    ),
    Mutant(
        "margin-without-register",
        "a margin forgets the register that names the shards",
        (
            Edit(
                _MARGIN,
                "        found.append(register_survives(topology, pool, partitions[0], up, tag))\n",
                "",
            ),
        ),
        _TEST_MARGIN,
    ),
    Mutant(
        "margin-of-the-silent",
        "a recount takes stores that did not answer for members of registers",
        (
            Edit(
                _PROVE,
                "        lambda store: store not in census.silent,\n",
                "        lambda _: True,\n",
            ),
        ),
        _TEST_RISK,
    ),
    Mutant(
        "risk-names-the-first",
        "of more blobs at risk than are told by name, the first are told, not the gravest",
        (
            Edit(
                _PROVE,
                "sorted(gravest, key=_gravest_first)[:LISTED_MAX]",
                "sorted(gravest[:LISTED_MAX], key=_gravest_first)",
            ),
        ),
        _TEST_RISK,
    ),
    Mutant(
        "seal-before-cells",
        "a shard is sealed before its cells are durable",
        (
            Edit(
                _KEEPER,
                "        await self._settled(name)\n        for stripe, checksum",
                "        for stripe, checksum",
            ),
        ),
        _TEST_KEEPER,
    ),
    Mutant(
        "seal-of-other-cells",
        "a shard is sealed although a cell is not the one the seal names",
        (Edit(_KEEPER, "            if stored != checksum:\n", "            if False:\n"),),
        _TEST_KEEPER,
    ),
    Mutant(
        "sealed-shard-rewritten",
        "a sealed shard may be overwritten with other bytes",
        (Edit(_KEEPER, "if stored is not None and stored != checksum:", "if False:"),),
        _TEST_KEEPER,
    ),
    Mutant(
        "drop-overtakes-cells",
        "a drop is written before cells that are still on their way",
        (
            Edit(
                _KEEPER,
                "                await self._settled(name)\n            except HoldfastError:",
                "                pass\n            except HoldfastError:",
            ),
        ),
        _TEST_KEEPER,
    ),
    Mutant(
        "undelete-without-link",
        "an undelete names shards that nobody linked",
        (
            Edit(
                _UNDELETE,
                "held = await self._link(kept, blob_id) if kept.parts else {}",
                "held = {at: dict(enumerate(part.holders)) for at, part in enumerate(kept.parts)}",
            ),
        ),
        _TEST_OUTCOMES,
    ),
    Mutant(
        "undelete-unchecked",
        "an undelete is acked however few shards are left",
        (Edit(_UNDELETE, "        check_ack(path, place, manifest)\n", ""),),
        _TEST_OUTCOMES,
    ),
)

MUTANTS: Final = (*_RIGHT_BYTES, *_PLACES)
