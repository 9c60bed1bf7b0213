"""A bucket whose deletion nobody goes on with."""

from __future__ import annotations

from holdfast_node.core.ids import BucketId


class StuckDoors:
    """Remembers who stood before a closed door, which leads to its being opened in the end, and who opened it. `gone`:
    the bucket is."""

    def __init__(self, *, gone: bool = False) -> None:
        self.gone = gone
        self.stood: list[BucketId] = []
        self.opened: list[BucketId] = []

    async def is_gone(self, bucket: BucketId) -> bool:
        self.stood.append(bucket)
        return self.gone

    async def reopen(self, bucket: BucketId) -> None:
        self.opened.append(bucket)
