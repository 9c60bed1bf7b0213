"""Names and numbers with one meaning each: the vocabulary every other module types its fields with."""

from __future__ import annotations

from typing import Final, NewType

ID_BYTES: Final = 16

NodeName = NewType("NodeName", str)
StoreId = NewType("StoreId", bytes)
"""One life of one data directory (16 random bytes). A wiped directory comes back as another store."""
ClusterId = NewType("ClusterId", bytes)
BootId = NewType("BootId", bytes)
BucketId = NewType("BucketId", bytes)
"""16 random bytes, never reused; keys hash and are stored under it, not under the bucket's name."""
BlobId = NewType("BlobId", bytes)
"""16 random bytes minted by the coordinator per attempt; names shards and seeds their checksums."""
RequestId = NewType("RequestId", bytes)
"""16 random bytes minted by the client per logical call; makes retries idempotent."""
Digest = NewType("Digest", bytes)
"""An xxh3-128 digest, 16 bytes, big endian."""

Epoch = NewType("Epoch", int)
Era = NewType("Era", int)
Generation = NewType("Generation", int)
Version = NewType("Version", int)
ShardIndex = NewType("ShardIndex", int)

RESERVED_BUCKET: Final = BucketId(bytes(ID_BYTES))
"""The bucket that holds the bucket records."""
RESERVED_POOL: Final = 0
"""Where it lives."""

KEY_BYTES_MAX: Final = 1024
METADATA_BYTES_MAX: Final = 8 * 1024
HEAD_BYTES_MAX: Final = 64 * 1024
RETAINED_MAX: Final = 64
