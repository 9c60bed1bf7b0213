"""The writes that go on meanwhile: threads that store blobs of all sizes until they are told to stop."""

from __future__ import annotations

import random
import threading
from types import TracebackType
from typing import TYPE_CHECKING, Final, Self

from holdfast.errors import Error
from holdfast_ctl.demo.ledger import Generated, Ledger

if TYPE_CHECKING:
    from holdfast import Bucket

THREADS: Final = 3
SIZES: Final = (0, 1, 900, 4096, 20_000, 65_536, 300_000, 1_048_577)
PAUSE_S: Final = 0.02
"""Between two writes of a thread: a load that shows what is to be shown, and leaves the machine to the cluster."""


class Load:
    """`acks`: how many writes were acknowledged, to be watched from outside."""

    def __init__(self, bucket: Bucket, ledger: Ledger, seed: str) -> None:
        self._bucket = bucket
        self._ledger = ledger
        self._stopped = threading.Event()
        self._threads = [
            threading.Thread(
                target=self._write, args=(f"{seed}-{number}",), name=f"load-{number}", daemon=True
            )
            for number in range(THREADS)
        ]
        self.acks = 0

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopped.set()
        if kind is None:
            for thread in self._threads:
                thread.join()

    def _write(self, name: str) -> None:
        choice = random.Random(name)  # noqa: S311  # sizes of a demonstration
        number = 0
        while not self._stopped.wait(PAUSE_S):
            number += 1
            key = f"load/{name}/{number:05}"
            content = Generated(key, choice.choice(SIZES))
            self._ledger.attempted()
            try:
                receipt = self._bucket.put(key, b"".join(content.chunks()))
            except Error as error:
                self._ledger.failed(error)
                continue
            self._ledger.acked(key.encode(), receipt.version, content)
            self.acks += 1
