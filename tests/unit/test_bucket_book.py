"""What background work believes of buckets: one is gone only if a list made for the purpose does not name it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace

from holdfast_node.core.api import Bucket
from holdfast_node.core.errors import BucketNotFound
from holdfast_node.core.ids import RESERVED_BUCKET, BucketId
from holdfast_node.services.bucket_book import BucketBook, BucketFacts

ID = BucketId(b"b" * 16)
RECORD = Bucket(name="kept", id=ID, pool="main", undo_seconds=7, created_ms=0)


class Listed:
    def __init__(self, *buckets: Bucket) -> None:
        self.buckets = list(buckets)
        self.lists = 0

    async def current(self, known: Bucket) -> Bucket:
        for bucket in self.buckets:
            if bucket.name == known.name:
                return bucket
        raise BucketNotFound(f"there is no bucket {known.name!r}")

    async def all_buckets(self) -> AsyncIterator[tuple[int, Bucket]]:
        self.lists += 1
        for bucket in self.buckets:
            yield 0, bucket


def play(listed: Listed, story: Callable[[BucketBook], Awaitable[None]], *, closed: bool = True) -> None:
    async def main() -> None:
        await story(BucketBook(listed, lambda _: closed))

    asyncio.run(main())


def test_a_closed_bucket_with_a_record_is_not_gone_after_what_was_known_is_forgotten() -> None:
    async def story(book: BucketBook) -> None:
        assert not await book.is_gone(ID)
        book.forget()
        assert not await book.is_gone(ID)
        facts = await book.facts(ID)
        assert facts is not None
        assert facts.undo_seconds == RECORD.undo_seconds

    play(Listed(RECORD), story)


def test_a_closed_bucket_without_a_record_is_gone_and_need_not_be_asked_for_again() -> None:
    listed = Listed()

    async def story(book: BucketBook) -> None:
        assert await book.is_gone(ID)
        book.forget()
        assert await book.is_gone(ID)
        assert await book.facts(ID) is None
        assert listed.lists == 1

    play(listed, story)


def undo_of(facts: BucketFacts | None) -> int:
    assert facts is not None
    return facts.undo_seconds


def test_before_something_is_given_up_its_window_is_read_anew() -> None:
    """The list may be as old as a round, and an operator may have made the window longer since."""
    listed = Listed(RECORD)

    async def story(book: BucketBook) -> None:
        assert await book.undo_seconds_now(ID) == 7
        listed.buckets = [replace(RECORD, undo_seconds=700)]
        assert undo_of(await book.facts(ID)) == 7
        assert await book.undo_seconds_now(ID) == 700
        assert undo_of(await book.facts(ID)) == 700
        listed.buckets = [replace(RECORD, id=BucketId(b"c" * 16))]
        assert await book.undo_seconds_now(ID) is None, "another bucket has the name now"
        listed.buckets = []
        assert await book.undo_seconds_now(ID) is None
        assert await book.undo_seconds_now(RESERVED_BUCKET) == 0

    play(listed, story)


def test_an_open_bucket_without_a_record_is_not_gone() -> None:
    async def story(book: BucketBook) -> None:
        assert not await book.is_gone(ID)
        assert await book.facts(ID) is None

    play(Listed(), story, closed=False)


def test_a_bucket_younger_than_the_list_is_not_gone_because_its_door_was_closed_for_a_moment() -> None:
    """It was made after the list, and its deletion was given up: somebody had written to it."""
    listed, closed = Listed(), set[BucketId]()

    async def main() -> None:
        book = BucketBook(listed, lambda bucket: bucket in closed)
        assert await book.facts(ID) is None
        listed.buckets.append(RECORD)
        closed.add(ID)
        assert not await book.is_gone(ID)
        closed.clear()
        assert not await book.is_gone(ID)

    asyncio.run(main())
