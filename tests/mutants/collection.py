"""Bugs in ending undo windows and in giving up what no head names."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_ACCEPTOR: Final = "node/holdfast_node/services/acceptor.py"
_AGES: Final = "node/holdfast_node/core/ages.py"
_BOOK: Final = "node/holdfast_node/services/bucket_book.py"
_BUCKETS: Final = "node/holdfast_node/services/buckets.py"
_COLLECTION: Final = "node/holdfast_node/services/collection.py"
_EXPIRY: Final = "node/holdfast_node/services/expiry.py"
_HEAD: Final = "node/holdfast_node/core/head.py"
_INDEX_ROWS: Final = "node/holdfast_node/core/index_rows.py"
_KEEPER: Final = "node/holdfast_node/services/keeper.py"
_STORE_TIME: Final = "node/holdfast_node/services/log/store_time.py"
_REGISTER: Final = "node/holdfast_node/core/register.py"

_ALL_RAISED: Final = "        except (HoldfastError, TimeoutError):\n            raise\n"
_TOLD: Final = (
    "            except BucketClosing:\n"
    "                _ = await self._closed.nothing_behind(bucket)\n"
    "                return\n"
)
_TOLD_OF_MANIFESTS: Final = (
    "                _ = await self._closed.nothing_behind(held.bucket)\n"
    "                return\n"
    "            unnamed -= _blobs_of"
)
_TEST: Final = "tests/unit/test_collection.py"

MUTANTS: Final = (
    Mutant(
        "shards-behind-door",
        "a collector that meets a half-accepted head behind a closed door does not have that opened",
        (Edit(_COLLECTION, _TOLD, "            except BucketClosing:\n                return\n"),),
        _TEST,
    ),
    Mutant(
        "manifests-behind-door",
        "the same before a manifest",
        (Edit(_COLLECTION, _TOLD_OF_MANIFESTS, "                return\n            unnamed -= _blobs_of"),),
        _TEST,
    ),
    Mutant(
        "dropped-unfenced",
        "shards that no head names are dropped while their attempt may still be decided",
        (
            Edit(
                _COLLECTION,
                "        if head.fence is None or head.fence < base:\n",
                "        if head.fence is not None and head.fence < base:\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "window-from-memory",
        "a window that was made longer ends as the list of buckets says that the round began with",
        (Edit(_EXPIRY, "if await self._is_longer_now(each):", "if False:"),),
        "tests/unit/test_undo_windows.py",
    ),
    Mutant(
        "settings-for-ever",
        "a node goes by the settings of a bucket that it read first",
        (Edit(_BUCKETS, "elif self._now_s() < known.since_s + SETTINGS_AGE_S:", "elif True:"),),
        "tests/unit/test_buckets.py",
    ),
    Mutant(
        "settings-or-nothing",
        "where a bucket's record cannot be read anew, nothing is written to the bucket any more",
        (
            Edit(
                _BUCKETS,
                "        except (HoldfastError, TimeoutError):\n            return known\n",
                _ALL_RAISED,
            ),
        ),
        "tests/unit/test_buckets.py",
    ),
    Mutant(
        "older-settings-last",
        "of two who read a bucket's settings anew the one that began first has the last word",
        (Edit(_BUCKETS, "if self._cache.get(name) is entry:", "if True:"),),
        "tests/unit/test_buckets.py",
    ),
    Mutant(
        "broken-behind-door",
        "a home whose register is broken behind a closed door does not see to it that that is opened",
        (
            Edit(
                "node/holdfast_node/services/restoring.py",
                "            if not await self._closed.nothing_behind(key[0]):\n",
                "            if True:\n",
            ),
        ),
        "tests/unit/test_broken_registers.py",
    ),
    Mutant(
        "kept-versions-nobodys",
        "a head names the shards of its current version only",
        (
            Edit(
                _HEAD,
                "for each in head.retained if each.kind is HeadKind.BLOB}",
                "for each in head.retained if each.kind is HeadKind.ABSENT}",
            ),
        ),
        "tests/unit/test_register.py",
    ),
    Mutant(
        "undeleted-seed-forgotten",
        "an undeleted version that is overwritten names shards that never were",
        (
            Edit(
                _REGISTER,
                "manifest.seed_id if manifest is not None and undeleted else",
                "manifest.blob_id if manifest is not None and undeleted else",
            ),
        ),
        "tests/unit/test_register.py",
    ),
    Mutant(
        "undelete-from-nothing",
        "an undelete is decided though no head names its source any more",
        (Edit(_REGISTER, "    return _source_gone(current, operation)\n", "    return None\n"),),
        "tests/unit/test_register.py",
    ),
    Mutant(
        "expired-with-the-window",
        "a window that ends takes the version that ended it as well",
        (Edit(_REGISTER, "each.version >= operation.below", "each.version > operation.below"),),
        "tests/unit/test_register.py",
    ),
    Mutant(
        "window-ended-by-one",
        "one home's word ends an undo window",
        (
            Edit(
                _AGES,
                "        if roster.decides([store for store, answer in answers.items() if answer >= below]):\n",
                "        if roster.decides(list(answers)):\n",
            ),
        ),
        "tests/unit/test_ages.py",
    ),
    Mutant(
        "older-than-it-is",
        "a version is as old as its key",
        (
            Edit(
                _AGES,
                "    kept.setdefault(head.version, now_s)\n",
                "    kept.setdefault(head.version, min(kept.values(), default=0))\n",
            ),
        ),
        "tests/unit/test_ages.py",
    ),
    Mutant(
        "ages-lost-with-every-decision",
        "deciding the same head again makes its versions young: a window need never end",
        (
            Edit(
                _ACCEPTOR,
                "        known = own.ages if own is not None else ()\n",
                "        known = ()\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "uploads-not-spared",
        "shards of an upload under way are taken for those of one that failed",
        (
            Edit(
                _COLLECTION,
                "        return self._store.store_time_s - max(each.since_s for each in origins) >= STAGE_TTL_S\n",
                "        return self._store.store_time_s >= max(each.since_s for each in origins)\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "nameless-cells",
        "a cell relies on a stage record that is on its way and may be refused: nobody ever gives it up",
        (
            Edit(
                _KEEPER,
                "        if self._store.shard(name) is None or self._dropping[name]:\n            since_s",
                "        if self._store.shard(name) is None and name not in self._stages:\n            since_s",
            ),
        ),
        "tests/unit/test_keeper.py",
    ),
    Mutant(
        "no-quarantine",
        "shards go under who is reading them",
        (Edit(_COLLECTION, "now_s - since_s >= QUARANTINE_S", "now_s >= since_s"),),
        _TEST,
    ),
    Mutant(
        "own-heads-always-believed",
        "a home that missed what was decided keeps old shards for ever",
        (
            Edit(
                _COLLECTION,
                "        if self._doubting or seed_id in self._doomed:\n            return False\n",
                "",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "manifest-forgotten-too-soon",
        "a home forgets the manifest of what it accepted and what may yet be decided",
        (
            Edit(
                _COLLECTION,
                "                unnamed -= await self._accepted_here(held, above=reading.ballot)\n",
                "                pass\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "gone-for-want-of-a-record",
        "a bucket whose record cannot be found has nothing in it, closed or not",
        (
            Edit(
                _BOOK,
                "        if not self._closed(bucket):\n            self._closed_s",
                "        if False:\n            self._closed_s",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "forgotten-and-young",
        "a list of buckets that was thrown away still counts, and names none",
        (Edit(_BOOK, "self._known, self._listed_s = {}, -math.inf", "self._known = {}"),),
        "tests/unit/test_bucket_book.py",
    ),
    Mutant(
        "graves-healed",
        "what a deleted bucket kept for undo is to be healed for ever",
        (
            Edit(
                "node/holdfast_node/services/heal_hands.py",
                "            if await self._book.is_gone(place.bucket):\n",
                "            if await self._book.is_gone(place.bucket) and not place.bucket:\n",
            ),
        ),
        _TEST,
    ),
    Mutant(
        "retaining-unmarked",
        "the index does not say which registers keep older versions: no window ends",
        (Edit(_INDEX_ROWS, "(_RETAINS if head.retained else 0)", "(_RETAINS if head.fence else 0)"),),
        _TEST,
    ),
    Mutant(
        "time-by-the-minute",
        "a store notes its running time once a minute only: one that dies more often never counts any",
        (Edit(_STORE_TIME, "                ride(record)\n", "                pass\n"),),
        "tests/unit/test_undo_windows.py",
    ),
)
