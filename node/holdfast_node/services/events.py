"""Where services report what happened: named events with fields, once each, where they are handled."""

from __future__ import annotations

from typing import Protocol


class Events(Protocol):
    """A structured log. `event` is snake_case and past tense; fields are plain values."""

    def emit(self, event: str, **fields: str | float | bool) -> None: ...
