"""The JSON documents of `clusterctl`, listed in docs/operations.md. Field names are never changed, only added."""

from __future__ import annotations

from holdfast.cli.shell import Json
from holdfast.values import key_text
from holdfastpb.v1 import admin_pb2, blob_pb2, types_pb2

Document = dict[str, Json]

_STATES = {
    types_pb2.STORE_STATE_SUSPECT: "suspect",
    types_pb2.STORE_STATE_DRAINING: "draining",
    types_pb2.STORE_STATE_LOST: "lost",
}


def margin(message: blob_pb2.Margin) -> Document:
    return {"survives": {entry.tag: entry.survives for entry in message.entries}, "full": message.full}


def node(message: admin_pb2.NodeStatus) -> Document:
    return {
        "id": message.name,
        "address": message.address,
        "tags": dict(message.tags),
        "store": message.store.hex(),
        "state": message.state,
        "voting": message.voting,
        "not_voting_reason": message.not_voting_reason,
        "shards": message.shards,
        "learning_partitions": message.learning_partitions,
        "epoch": message.epoch,
        "boot": message.boot,
        "used_bytes": message.used_bytes,
        "capacity_bytes": message.capacity_bytes,
        "uptime_s": message.uptime_s,
        "weight": message.weight,
        "unproven_s": message.unproven_s if message.promised_s else None,
        "promised_s": message.promised_s or None,
    }


def worker(message: admin_pb2.WorkerStatus) -> Document:
    return {
        "node": message.node,
        "name": message.name,
        "state": message.state,
        "detail": message.detail,
        "done": message.done,
        "total": message.total,
        "bytes_done": message.bytes_done,
        "bytes_read": message.bytes_read,
        "rate_bytes_s": message.rate_bytes_s,
        "eta_s": None if message.eta_s < 0 else message.eta_s,
    }


def plan(message: admin_pb2.PlanReply) -> Document:
    return {
        "kind": message.kind,
        "nodes": list(message.nodes),
        "pool": message.pool or None,
        "epoch": message.epoch,
        "applied": message.applied,
        "partitions": message.partitions,
        "open": message.open,
        "settled": message.settled,
        "left": message.left or None,
        "pools": [
            {
                "pool": moves.pool,
                "slots": moves.slots,
                "least_slots": moves.least_slots,
                "all_slots": moves.all_slots,
                "bytes": moves.bytes,
            }
            for moves in message.pools
        ],
        "margin": margin(message.margin),
        "eta_s": None if message.eta_s < 0 else message.eta_s,
        "warnings": list(message.warnings),
    }


def quarantine(message: admin_pb2.QuarantineListReply) -> Document:
    return {
        "total": message.total,
        "blobs": [
            {
                "bucket": blob.bucket,
                "key": key_text(blob.key),
                "node": blob.node,
                "tries": blob.tries,
                "margin": blob.margin,
                "why": blob.why,
            }
            for blob in message.blobs
        ],
        "unreachable": list(message.unreachable),
    }


def scrub(message: admin_pb2.ScrubReply) -> Document:
    return {
        "nodes": [
            {
                "id": node.node,
                "cycle": node.cycle,
                "completed": node.completed,
                "bytes_done": node.bytes_done,
                "bytes_total": node.bytes_total,
                "rate_bytes_s": node.rate_bytes_s,
                "eta_s": node.eta_s,
                "found": node.found,
                "healed": node.healed,
                "garbage": node.garbage,
                "unproven_s": node.unproven_s,
                "promised_s": node.promised_s,
                "waiting": list(node.waiting),
            }
            for node in message.nodes
        ],
        "unreachable": list(message.unreachable),
    }


def pool(message: admin_pb2.PoolStatus) -> Document:
    return {
        "name": message.name,
        "code": message.code,
        "partitions": message.partitions,
        "protected_tags": list(message.protected_tags),
        "ack_floor": message.ack_floor,
        "designed_margin": margin(message.designed_margin),
        "blobs": message.blobs,
        "bytes": message.bytes,
    }


def status(message: admin_pb2.StatusReply) -> Document:
    return {
        "healthy": message.healthy,
        "problems": list(message.problems),
        "cluster_id": message.cluster_id.hex(),
        "epoch": message.epoch,
        "era": message.era,
        "simulated_domains": message.simulated_domains,
        "voters": list(message.voters),
        "blobs": message.blobs,
        "bytes": message.bytes,
        "least_margin": margin(message.least_margin),
        "partitions": partitions(message),
        "exceptions": message.exceptions,
        "nodes": [node(item) for item in message.nodes],
        "pools": [pool(item) for item in message.pools],
        "workers": [worker(item) for item in message.workers],
    }


def partitions(message: admin_pb2.StatusReply) -> Document:
    return {
        "total": message.partitions,
        "full": message.partitions_full,
        "degraded": message.partitions_degraded,
        "unreported": message.partitions_unreported,
    }


def heal(message: admin_pb2.StatusReply) -> Document:
    workers = [item for item in message.workers if item.name in {"healer", "learner"}]
    return {
        "healthy": message.healthy,
        "least_margin": margin(message.least_margin),
        "partitions": partitions(message),
        "exceptions": message.exceptions,
        "learning_partitions": sum(item.learning_partitions for item in message.nodes),
        "workers": [worker(item) for item in workers],
    }


def cluster_map(message: types_pb2.ClusterMap) -> Document:
    names = {entry.store: entry.name for entry in message.nodes}

    def named(store: bytes) -> str:
        return names.get(store, store.hex())

    return {
        "cluster_id": message.cluster_id.hex(),
        "epoch": message.epoch,
        "era": message.era,
        "cluster_level": message.cluster_level,
        "simulated_domains": message.simulated_domains,
        "voters": [named(store) for store in message.voters],
        "nodes": [
            {
                "id": entry.name,
                "address": entry.address,
                "store": entry.store.hex(),
                "tags": dict(entry.tags),
                "weight": entry.weight if entry.HasField("weight") else 1,
                "state": _STATES.get(entry.state, "active"),
                "joined_epoch": entry.joined_epoch if entry.HasField("joined_epoch") else 1,
            }
            for entry in message.nodes
        ],
        "pools": [
            {
                "name": item.name,
                "code": item.code,
                "former_code": item.former_code or None,
                "protected_tags": list(item.protected_tags),
                "ack_floor": item.ack_floor,
                "partitions": [
                    {
                        "generation": partition.generation,
                        "homes": [named(store) for store in partition.homes],
                        "learners": [named(store) for store in partition.learners],
                        "moving": [named(store) for store in partition.moving],
                        "shards": [named(store) for store in partition.shards],
                    }
                    for partition in item.partitions
                ],
            }
            for item in message.pools
        ],
    }


def explanation(bucket: str, message: admin_pb2.ExplainReply) -> Document:
    return {
        "bucket": bucket,
        "key": key_text(message.info.key),
        "version": message.info.version,
        "size": message.info.size,
        "code": message.info.code,
        "pool": message.pool,
        "partition": message.partition,
        "generation": message.generation,
        "homes": list(message.homes),
        "register_copies": list(message.register_copies),
        "margin": margin(message.margin),
        "shards": [
            {
                "part": shard.part,
                "index": shard.index,
                "home": shard.home,
                "named": shard.named,
                "found_at": list(shard.found_at),
            }
            for shard in message.shards
        ],
        "unreachable": list(message.unreachable),
    }


def risk(message: admin_pb2.RiskReply) -> Document:
    return {
        "blobs": message.blobs,
        "bytes": message.bytes,
        "shards": message.shards,
        "total": message.total,
        "at_risk": [
            {
                "bucket": blob.bucket,
                "key": key_text(blob.key),
                "version": blob.version,
                "size": blob.size,
                "code": blob.code,
                "margin": margin(blob.margin),
                "weakest": list(blob.weakest),
            }
            for blob in message.at_risk
        ],
        "unreachable": list(message.unreachable),
        "least_margin": margin(message.least_margin),
    }


def at_risk(message: admin_pb2.AtRisk) -> Document:
    return {
        "bucket": message.bucket,
        "key": key_text(message.key),
        "version": message.version,
        "lose": message.lose,
        "what": message.what,
        "part": message.part,
        "left": message.left,
        "needed": message.needed,
    }
