"""Rows on their way to the index: gathered over what it has, and seen by whoever adds more."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from holdfast_node.core.index_keys import prefix_end


class Rows:
    """Rows to be written as one batch; reads see them before the index does."""

    def __init__(
        self,
        get: Callable[[bytes], bytes | None],
        scan: Callable[[bytes, bytes], Iterable[tuple[bytes, bytes]]],
    ) -> None:
        self._get = get
        self._scan = scan
        self.puts: dict[bytes, bytes] = {}
        self.deletes: set[bytes] = set()

    def get(self, key: bytes) -> bytes | None:
        found = self.puts.get(key)
        return found if found is not None or key in self.deletes else self._get(key)

    def put(self, key: bytes, value: bytes) -> None:
        self.puts[key] = value
        self.deletes.discard(key)

    def delete(self, key: bytes) -> None:
        self.puts.pop(key, None)
        self.deletes.add(key)

    def under(self, prefix: bytes) -> list[tuple[bytes, bytes]]:
        rows = dict(self._scan(prefix, prefix_end(prefix)))
        rows.update((key, value) for key, value in self.puts.items() if key.startswith(prefix))
        return [(key, value) for key, value in rows.items() if key not in self.deletes]
