"""Bugs in telling stewards of what is not all at home."""

from __future__ import annotations

from typing import Final

from tests.mutants.mutant import Edit, Mutant

_COMMITTING: Final = "node/holdfast_node/services/committing.py"
_HEALER: Final = "node/holdfast_node/services/healer.py"
_NOTICES: Final = "node/holdfast_node/services/notices.py"

_TEST_NOTICES: Final = "tests/unit/test_notices.py"

MUTANTS: Final = (
    Mutant(
        "worker-dies",
        "a background worker ends for good at the first mistake in its work",
        (
            Edit(
                "node/holdfast_node/services/worker.py",
                "        except Exception as error:  # noqa: BLE001",
                "        except ZeroDivisionError as error:  # noqa: BLE001",
            ),
        ),
        "tests/unit/test_worker.py",
    ),
    Mutant(
        "named-by-who-is-gone",
        "a steward that reads its own feed takes for granted that heal has made again what a replaced store had sealed",
        (Edit("node/holdfast_node/services/wards.py", "key, up, fresh=True))", "key, up))"),),
        "tests/unit/test_long_uploads.py",
    ),
    Mutant(
        "early-parts-forgotten",
        "an upload is acked whose early parts are not within reach any more",
        (
            Edit(
                "node/holdfast_node/services/put.py",
                "elif len(manifest.parts) > 1:",
                "elif len(manifest.parts) > 99:",
            ),
        ),
        "tests/unit/test_long_uploads.py",
    ),
    Mutant(
        "other-bytes-acked",
        "a repeated put is told of the bytes it brought, not of those that are stored",
        (
            Edit(
                "node/holdfast_node/services/put.py",
                "await applied_manifest(self._path, write.place, outcome.version) or manifest",
                "manifest",
            ),
        ),
        "tests/unit/test_put_outcomes.py",
    ),
    Mutant(
        "undone-by-another",
        "a repeated undelete is told of what is current now, not of what it brought back",
        (
            Edit(
                "node/holdfast_node/services/undelete.py",
                "await manifest_of(self._path, place, head, version)",
                "head.manifest or await manifest_of(self._path, place, head, version)",
            ),
        ),
        "tests/unit/test_put_outcomes.py",
    ),
    Mutant(
        "applied-and-refused",
        "an undelete that was carried out is refused when it is repeated, for what it brought back is gone",
        (
            Edit(
                "node/holdfast_node/services/undelete.py",
                "except VersionNotFound as gone:",
                "except ZeroDivisionError as gone:",
            ),
        ),
        "tests/unit/test_put_outcomes.py",
    ),
    Mutant(
        "deleted-key-by-key",
        "a deleted bucket is looked through a key at a time, while its door waits",
        (Edit("node/holdfast_node/services/buckets.py", "ListOptions()  #", "ListOptions(page_size=1)  #"),),
        "tests/unit/test_buckets.py",
    ),
    Mutant(
        "young-and-gone",
        "a list older than a bucket proves that the bucket is gone",
        (
            Edit(
                "node/holdfast_node/services/bucket_book.py",
                "self._list(max(since_s, now_s - CLOSED_AGE_S))",
                "self._list(now_s - CLOSED_AGE_S)",
            ),
        ),
        "tests/unit/test_bucket_book.py",
    ),
    Mutant(
        "kept-versions-weigh-nothing",
        "a page of copies is measured by heads alone",
        (
            Edit(
                "node/holdfast_node/services/log/register_reader.py",
                "size += len(self._log.bodies.encode(copy))",
                "size += len(copy.head)",
            ),
        ),
        "tests/unit/test_store.py",
    ),
    Mutant(
        "degraded-untold",
        "a degraded write is acknowledged although its steward may not know",
        (
            Edit(
                _COMMITTING,
                "await path.notices.before_ack(_at(path, place), key, outcome.accepted)",
                "pass",
            ),
        ),
        _TEST_NOTICES,
    ),
    Mutant(
        "told-once",
        "a steward that did not answer is not told again",
        (
            Edit(
                _NOTICES, "more=False)):\n            self.later(at, key)", "more=False)):\n            pass"
            ),
        ),
        _TEST_NOTICES,
    ),
    Mutant(
        "failed-write-untold",
        "what a failed write may have named is told to nobody",
        (Edit(_COMMITTING, "path.notices.later(_at(path, place), key)", "pass"),),
        _TEST_NOTICES,
    ),
    Mutant(
        "others-take-note",
        "a store that is not the steward takes note, and the steward never hears",
        (
            Edit(
                _HEALER,
                'raise NotVoting("this store is not the steward of the partition")',
                "return",
            ),
        ),
        _TEST_NOTICES,
    ),
    Mutant(
        "untold-unsaid",
        "status knows nothing of what its writer could not tell the steward",
        (
            Edit(
                "node/holdfast_node/services/node.py",
                "health=(self.healer.health, self.path.notices.health),",
                "health=(self.healer.health,),",
            ),
        ),
        "tests/unit/test_notices.py",
    ),
)
