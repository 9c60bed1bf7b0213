"""Bugs planted on purpose: each stops checking something, and damaged stores must answer wrongly."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from holdfast_node.core import log_format
from holdfast_node.core.log_format import Mark, Record
from holdfast_node.services.log import opening, reader, replay, shard_reader
from holdfast_node.services.log.indexer import Indexer
from holdfast_node.services.log.tables import Tables

Patch = tuple[object, str, object]


def _instead(value: object) -> Callable[..., object]:
    """A function that returns this whatever it is asked."""

    def constant(*about: object) -> object:
        del about
        return value

    return constant


class _AlwaysEqual:
    def __ne__(self, other: object) -> bool:
        return False

    def __eq__(self, other: object) -> bool:
        return True

    def __hash__(self) -> int:
        return 0


class _Format:
    """The log's format with `decode_located` replaced."""

    def __init__(self, decode_located: Callable[[bytes, int], Record | None]) -> None:
        self.decode_located = decode_located

    def __getattr__(self, name: str) -> Any:
        return getattr(log_format, name)


def _cells_unchecked() -> Sequence[Patch]:
    return [(shard_reader, "cell_checksum", _instead(_AlwaysEqual()))]


def _bodies_unchecked() -> Sequence[Patch]:
    def decode(data: bytes, offset: int) -> Record | None:
        record = log_format.decode_located(data, offset)
        if record is None:
            return None
        extent, at = record.extent, log_format.RECORD_HEADER_BYTES + len(record.key)
        return record._replace(body=data[at : extent.length - extent.payload_length], whole=True)

    return [(reader, "log_format", _Format(decode))]


def _any_record_of_the_key() -> Sequence[Patch]:
    def decode(data: bytes, offset: int) -> Record | None:
        record = log_format.decode_located(data, offset)
        any_sequence: Any = _AlwaysEqual()
        return None if record is None else record._replace(sequence=any_sequence)

    return [(reader, "log_format", _Format(decode))]


def _no_mark() -> Sequence[Patch]:
    class Blind(replay.Replay):
        def __init__(self, *about: Any, mark: Mark, **more: Any) -> None:
            del mark
            super().__init__(*about, mark=Mark(), **more)

    return [(opening, "Replay", Blind)]


def _rot_forgotten() -> Sequence[Patch]:
    return [(opening, "_consequences", _instead(((), ())))]


def _keys_not_marked() -> Sequence[Patch]:
    return [(Indexer, "mark_rotten", _instead(False))]


def _votes_kept() -> Sequence[Patch]:
    return [(Tables, "lost_sequences", _instead(frozenset[int]()))]


PLANTS: Final[dict[str, Callable[[], Sequence[Patch]]]] = {
    "cells-unchecked": _cells_unchecked,
    "bodies-unchecked": _bodies_unchecked,
    "any-record-of-the-key": _any_record_of_the_key,
    "no-mark": _no_mark,
    "rot-forgotten": _rot_forgotten,
    "keys-not-marked": _keys_not_marked,
    "votes-kept": _votes_kept,
}
