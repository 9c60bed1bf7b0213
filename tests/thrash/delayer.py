"""`python -m tests.thrash.delayer QUEUE DELAY_MS JITTER_MS`: holds back the packets of one netfilter queue.

The kernel keeps the packets and tells only their numbers; this program gives each number back, with the verdict to let
it pass, when its time has come. It speaks the kernel's protocol (linux/netfilter/nfnetlink_queue.h) itself: the
library for it has to be compiled. Packets pass untouched when it ends.
"""

from __future__ import annotations

import heapq
import random
import select
import socket
import struct
import sys
import time
from collections.abc import Iterator
from typing import Final

NETLINK_NETFILTER: Final = 12
SUBSYSTEM: Final = 3 << 8
PACKET, VERDICT, CONFIG = 0, 1, 2
REQUEST, ACKNOWLEDGE = 1, 4
CONFIG_COMMAND, CONFIG_PARAMETERS, CONFIG_LENGTH, CONFIG_MASK, CONFIG_FLAGS = 1, 2, 3, 4, 5
BIND: Final = 1
COPY_META: Final = 1
FLAGS_FAIL_OPEN_AND_WHOLE: Final = 1 | 4
ACCEPT: Final = 1
ATTRIBUTE_HEADER: Final = 1
ATTRIBUTE_VERDICT: Final = 2
MESSAGE: Final = struct.Struct("=IHHII")
FAMILY: Final = struct.Struct("!BBH")
ATTRIBUTE: Final = struct.Struct("=HH")
QUEUED_MAX: Final = 20_000
BUFFER_BYTES: Final = 4 * 1024 * 1024


def _attribute(kind: int, data: bytes) -> bytes:
    return ATTRIBUTE.pack(ATTRIBUTE.size + len(data), kind) + data + b"\0" * (-len(data) % 4)


def _message(kind: int, queue: int, attributes: bytes, flags: int = REQUEST) -> bytes:
    body = FAMILY.pack(socket.AF_UNSPEC, 0, queue) + attributes
    return MESSAGE.pack(MESSAGE.size + len(body), SUBSYSTEM | kind, flags, 0, 0) + body


def _numbers(data: bytes) -> Iterator[int]:
    """The packets that one read from the socket tells of."""
    at = 0
    while at + MESSAGE.size <= len(data):
        length, kind, _, _, _ = MESSAGE.unpack_from(data, at)
        if kind == SUBSYSTEM | PACKET:
            inner, end = at + MESSAGE.size + FAMILY.size, at + length
            while inner + ATTRIBUTE.size <= end:
                size, attribute = ATTRIBUTE.unpack_from(data, inner)
                if attribute == ATTRIBUTE_HEADER:
                    yield struct.unpack_from("!I", data, inner + ATTRIBUTE.size)[0]
                inner += -(-max(size, 4) // 4) * 4
        at += -(-max(length, MESSAGE.size) // 4) * 4


def _bind(queue: int) -> socket.socket:
    link = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER)
    link.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    link.bind((0, 0))
    flags = struct.pack("!I", FLAGS_FAIL_OPEN_AND_WHOLE)
    settings = (
        _attribute(CONFIG_COMMAND, struct.pack("!BBH", BIND, 0, 0)),
        _attribute(CONFIG_PARAMETERS, struct.pack("!IB", 0, COPY_META)),
        _attribute(CONFIG_LENGTH, struct.pack("!I", QUEUED_MAX)),
        _attribute(CONFIG_FLAGS, flags) + _attribute(CONFIG_MASK, flags),
    )
    for each in settings:
        link.send(_message(CONFIG, queue, each, REQUEST | ACKNOWLEDGE))
        (failure,) = struct.unpack_from("=i", link.recv(65536), MESSAGE.size)
        if failure:
            raise OSError(-failure, "the kernel refuses the queue")
    link.setblocking(False)
    return link


def main() -> None:
    queue, delay_s, jitter_s = int(sys.argv[1]), int(sys.argv[2]) / 1000, int(sys.argv[3]) / 1000
    link = _bind(queue)
    print("bound", flush=True)
    due: list[tuple[float, int]] = []
    while True:
        wait = max(0.0, due[0][0] - time.monotonic()) if due else None
        readable, _, _ = select.select([link], [], [], wait)
        now = time.monotonic()
        if readable:
            try:
                for number in _numbers(link.recv(BUFFER_BYTES)):
                    heapq.heappush(due, (now + delay_s + random.random() * jitter_s, number))
            except OSError:
                pass  # the kernel had more to say than the buffer holds: those packets passed
        while due and due[0][0] <= now:
            _, number = heapq.heappop(due)
            verdict = _attribute(ATTRIBUTE_VERDICT, struct.pack("!II", ACCEPT, number))
            link.send(_message(VERDICT, queue, verdict))


if __name__ == "__main__":
    main()
