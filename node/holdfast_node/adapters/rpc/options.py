"""Every limit of the gRPC endpoints, by name: gRPC sets few of them by itself."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MIB: Final = 1024 * 1024
MESSAGE_BYTES_MAX: Final = 5 * MIB
"""A chunk or a bulk frame of 4 MiB, and room for what is around it."""


@dataclass(frozen=True, slots=True)
class RpcLimits:
    """What one node accepts."""

    message_bytes: int = MESSAGE_BYTES_MAX
    metadata_bytes: int = 16 * 1024
    connections: int = 256
    streams: int = 256
    """Calls at once on one connection."""
    calls: int = 4096
    """Calls at once on all connections; beyond, gRPC answers RESOURCE_EXHAUSTED."""
    handshake_ms: int = 5_000
    keepalive_ms: int = 10_000
    """A connection without traffic is asked whether it is still there."""
    keepalive_timeout_ms: int = 5_000


def server_options(limits: RpcLimits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 0),  # otherwise a second node on the port would share it silently
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        ("grpc.max_allowed_incoming_connections", limits.connections),
        ("grpc.max_concurrent_streams", limits.streams),
        ("grpc.server_handshake_timeout_ms", limits.handshake_ms),
        ("grpc.keepalive_time_ms", limits.keepalive_ms),
        ("grpc.keepalive_timeout_ms", limits.keepalive_timeout_ms),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.keepalive_permit_without_calls", 1),
        # Otherwise gRPC widens its windows and reads ahead of what the node has budgeted: 64 uploads of 64 MiB took
        # 1096 MiB of memory with the probe and 235 without.
        ("grpc.http2.bdp_probe", 0),
    ]


def channel_options() -> list[tuple[str, int]]:
    """For a link: a connection of its own, opened at once when asked for."""
    return [
        ("grpc.max_receive_message_length", MESSAGE_BYTES_MAX),
        ("grpc.max_send_message_length", MESSAGE_BYTES_MAX),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", 10_000),
        ("grpc.keepalive_timeout_ms", 5_000),
    ]
