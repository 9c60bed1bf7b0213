"""What a version is worth as its manifest tells it: how many more losses it survives if its holders hold what they
sealed."""

from __future__ import annotations

from holdfast_node.core.api import Margin
from holdfast_node.core.codes import parse_code
from holdfast_node.core.head import Manifest
from holdfast_node.core.margin import margin_of
from holdfast_node.services.datapath import DataPath, KeyPlace


def manifest_margin(path: DataPath, place: KeyPlace, manifest: Manifest) -> Margin:
    """How many more losses the version survives if its named holders hold what they sealed."""
    topology = path.topology
    partitions = [
        topology.part_partition(place.pool, place.bucket, place.key, manifest.seed_id, part)
        for part in range(max(1, len(manifest.parts)))
    ]
    holders = [{index: (store,) for index, store in enumerate(part.holders)} for part in manifest.parts]
    code = parse_code(manifest.code)
    return margin_of(topology, place.pool, partitions, holders, path.links.is_up, code=code)
