"""What heal cannot mend, and what scrub has found: asked of every node, told by name. Mends nothing itself."""

from __future__ import annotations

from dataclasses import asdict
from typing import Final

from holdfast_node.core.messages import QuarantineReply, ReadQuarantine, ReadScrub, ScrubReport
from holdfast_node.core.report import NodeScrub, QuarantinedBlob, QuarantineListReply, ScrubReply
from holdfast_node.services.datapath import DataPath
from holdfast_node.services.fanout import gather, replies
from holdfast_node.services.prove import BucketSource

QUARANTINE_TIMEOUT_S: Final = 5.0
SCRUB_TIMEOUT_S: Final = 5.0


class Findings:
    """Answers for the whole cluster."""

    def __init__(self, *, path: DataPath, buckets: BucketSource) -> None:
        self._path = path
        self._buckets = buckets

    async def scrub(self, *, now: bool) -> ScrubReply:
        """How far every node has read itself back. `now`: and have all begin at once. Raises `NotInitialised`."""
        topology = self._path.topology
        answers = await gather(
            self._path.links,
            dict.fromkeys(topology.stores, ReadScrub(now)),
            timeout_s=SCRUB_TIMEOUT_S,
            enough=lambda _: False,
        )
        found = replies(answers, ScrubReport)
        nodes = [
            NodeScrub(node=topology.name(store), **asdict(found[store]))
            for store in sorted(found, key=topology.name)
        ]
        silent = [topology.name(store) for store in topology.stores if store not in found]
        return ScrubReply(tuple(nodes), tuple(sorted(silent)))

    async def quarantine(self, *, retry: bool) -> QuarantineListReply:
        """`retry`: and have it tried again at once. Raises `NotInitialised`."""
        topology = self._path.topology
        names = {bucket.id: bucket.name async for _, bucket in self._buckets.all_buckets()}
        answers = await gather(
            self._path.links,
            dict.fromkeys(topology.stores, ReadQuarantine(retry)),
            timeout_s=QUARANTINE_TIMEOUT_S,
            enough=lambda _: False,
        )
        found = replies(answers, QuarantineReply)
        blobs = [
            QuarantinedBlob(
                bucket=names.get(key.bucket, key.bucket.hex()),
                key=key.key,
                node=topology.name(store),
                tries=key.tries,
                margin=key.margin,
                why=key.why,
            )
            for store in sorted(found)
            for key in found[store].keys
        ]
        by_margin = sorted(blobs, key=lambda blob: (blob.margin, blob.bucket, blob.key, blob.node))
        once: dict[tuple[str, bytes], QuarantinedBlob] = {}
        for blob in by_margin:  # the steward has it, and so has whoever found it broken on its own disk
            once.setdefault((blob.bucket, blob.key), blob)
        silent = [topology.name(store) for store in topology.stores if store not in found]
        total = sum(reply.total for reply in found.values()) - len(blobs) + len(once)
        return QuarantineListReply(tuple(once.values()), total, tuple(sorted(silent)))
