"""The thread on which a synchronous client's asynchronous twin lives, and what happens to it at a fork.

gRPC's threads do not survive a fork, and a channel that a parent left open hangs in its child. So before a fork every
idle portal closes its connections and ends its thread; afterwards parent and child each open new ones on their next
call. Calls in flight at that moment cannot be moved: the parent's go on, and the child refuses to work rather than
hang (ADR 0061).
"""

from __future__ import annotations

import asyncio
import atexit
import concurrent.futures
import gc
import os
import threading
import time
import weakref
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Final, TypeVar

from holdfast.aio.client import Client
from holdfast.aio.downloads import Stream
from holdfast.errors import InvalidArgument, Unavailable

Result = TypeVar("Result")

FORK_WAIT_S: Final = 1.0
"""How long a fork waits for the calls of other threads to end."""


class Portal:
    """Runs coroutines of one asynchronous client from any thread."""

    def __init__(self, make_client: Callable[[], Client]) -> None:
        self._make_client = make_client
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._client: Client | None = None
        self._active = 0
        self._closed = False
        self._streams: weakref.WeakSet[Stream] = weakref.WeakSet()
        _watch_forks()
        _portals.add(self)

    def run(self, work: Callable[[Client], Coroutine[None, None, Result]]) -> Result:
        """Waits for the result. An interrupt (Ctrl-C) cancels the call before it goes on its way."""
        return self.wait(self.start(work))

    def start(
        self, work: Callable[[Client], Coroutine[None, None, Result]]
    ) -> concurrent.futures.Future[Result]:
        with self._lock:
            loop, client = self._ensure()
            self._active += 1
        future = asyncio.run_coroutine_threadsafe(work(client), loop)
        future.add_done_callback(self._done)
        return future

    def wait(self, future: concurrent.futures.Future[Result]) -> Result:
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise Unavailable("the client was closed while the call was under way") from None
        except BaseException:
            future.cancel()
            raise

    @property
    def closed(self) -> bool:
        return self._closed

    def track(self, stream: Stream) -> None:
        """A stream that stays open between calls."""
        self._streams.add(stream)

    def drop(self, stream: Stream) -> None:
        """Ends a stream whose reader has gone. From any thread, the garbage collector's included: nothing waits."""
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(stream.cancel)

    def call_soon(self, action: Callable[[], None]) -> None:
        loop = self._loop
        if loop is not None:
            loop.call_soon_threadsafe(action)

    def close(self) -> None:
        """Ends what is in flight."""
        with self._lock:
            self._closed = True
            running = self._take()
        _stop(running)

    def rest(self) -> bool:
        """Closes connections and thread if no call is in flight; the next call opens them again."""
        with self._lock:
            if self._active:
                return False
            running = self._take()
        _stop(running)
        return True

    def abandon(self) -> None:
        """In the child of a fork, where the thread does not exist."""
        self._lock = threading.Lock()
        self._loop = self._thread = self._client = None
        self._active = 0

    def _ensure(self) -> tuple[asyncio.AbstractEventLoop, Client]:
        if _forked_in_flight:
            raise Unavailable(
                "this process was forked while calls of its parent were in flight, and cannot use the network",
                hint='use multiprocessing.get_context("spawn"), or fork when no call is running',
            )
        if self._closed:
            raise Unavailable("this client is closed", hint="connect again")
        if threading.current_thread() is self._thread:
            raise InvalidArgument("a progress callback cannot call the client it is called by")
        if self._loop is None or self._client is None:
            self._loop = asyncio.new_event_loop()
            self._client = self._make_client()
            self._thread = threading.Thread(target=self._loop.run_forever, name="holdfast", daemon=True)
            self._thread.start()
        return self._loop, self._client

    def _done(self, _: concurrent.futures.Future[Result]) -> None:
        with self._lock:
            self._active -= 1

    def _take(self) -> _Running | None:
        """What is to be stopped, no longer ours. Stopped without the lock, which the calls that end then need."""
        loop, thread, client = self._loop, self._thread, self._client
        self._loop = self._thread = self._client = None
        streams, self._streams = list(self._streams), weakref.WeakSet()
        if loop is None or thread is None or client is None:
            return None
        return _Running(loop, thread, client, streams)


@dataclass(frozen=True, slots=True)
class _Running:
    loop: asyncio.AbstractEventLoop
    thread: threading.Thread
    client: Client
    streams: list[Stream]


def _stop(running: _Running | None) -> None:
    if running is not None:
        asyncio.run_coroutine_threadsafe(_wind_up(running.client, running.streams), running.loop).result()
        running.loop.call_soon_threadsafe(running.loop.stop)
        running.thread.join()
        running.loop.close()


async def _wind_up(client: Client, streams: list[Stream]) -> None:
    client.transport.shut()
    for stream in streams:
        stream.cancel()
    others = asyncio.all_tasks() - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    await client.close()
    loop = asyncio.get_running_loop()
    await loop.shutdown_asyncgens()
    await loop.shutdown_default_executor()


_portals: weakref.WeakSet[Portal] = weakref.WeakSet()
_watching = False
_forked_in_flight = False
_fork_was_clean = True


def _watch_forks() -> None:
    global _watching  # noqa: PLW0603  # once per process, with the first client
    if not _watching:
        _watching = True
        os.register_at_fork(before=_before_fork, after_in_child=_after_fork_in_child)
        atexit.register(_at_exit)


def _before_fork() -> None:
    global _fork_was_clean  # noqa: PLW0603  # what the child is told through its copy of this module
    deadline = time.monotonic() + FORK_WAIT_S
    busy: list[Portal] = list(_portals)
    while busy and time.monotonic() < deadline:
        busy = [portal for portal in busy if not portal.rest()]
        if busy:
            time.sleep(0.005)
    _fork_was_clean = not busy
    if _portals:
        gc.collect()  # channels in reference cycles would keep gRPC's threads alive


def _after_fork_in_child() -> None:
    global _forked_in_flight  # noqa: PLW0603
    _forked_in_flight = _forked_in_flight or not _fork_was_clean
    for portal in list(_portals):
        portal.abandon()


def _at_exit() -> None:
    for portal in list(_portals):
        portal.rest()
