"""Threads and forks: a client may be shared by the first and survives the second."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator

import pytest

import holdfast
from tests.support.faulty_server import Fault, Running, running

SERVER = """
import sys, threading
from tests.support.faulty_server import Fault, running
with running(1) as servers:
    for method in sys.argv[1:]:
        servers.servers[0].faults[method].append(Fault(hang=True))
    print(servers.endpoints, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def servers() -> Iterator[Running]:
    with running(1) as found:
        yield found


def serving(*hanging: str) -> subprocess.Popen[str]:
    """A server in a process of its own: gRPC's server side does not survive a fork, and need not."""
    command = [sys.executable, "-c", SERVER, *hanging]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def in_child(work: Callable[[], object]) -> int:
    """The exit status of a forked child that does the work."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:  # noqa: BLE001  # the child must not go on as a second test run
            traceback.print_exc()
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_threads_share_a_client(servers: Running) -> None:
    with holdfast.connect(servers.endpoints) as client:
        bucket = client.create_bucket("b")
        threads = [threading.Thread(target=bucket.put, args=(f"k{i}", bytes([i]))) for i in range(32)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(list(bucket.list())) == 32


def alone(story: Callable[[], None]) -> None:
    """Runs a story with forks in a process of its own: a worker of the tests has had gRPC servers in it, and those do
    not survive a fork."""
    command = [sys.executable, "-c", f"from {__name__} import {story.__name__}; {story.__name__}()"]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_a_client_works_on_both_sides_of_a_fork() -> None:
    alone(fork_and_use_both_sides)


def fork_and_use_both_sides() -> None:
    with serving() as server:
        assert server.stdout is not None
        with holdfast.connect(server.stdout.readline().strip()) as client:
            bucket = client.create_bucket("b")
            bucket.put("k", b"parent" * 1000)
            reading = bucket.get("k")
            steps = reading.iter()
            first = next(steps)

            def child() -> None:
                assert bucket.get("k").read() == b"parent" * 1000
                bucket.put("child", b"child")
                assert reading.read() == b"parent" * 1000

            assert in_child(child) == 0
            assert first + b"".join(steps) == b"parent" * 1000
            assert bucket.get("child").read() == b"child"
        server.terminate()


def test_a_fork_in_the_middle_of_a_call_is_refused_in_the_child_and_harmless_in_the_parent() -> None:
    alone(fork_in_the_middle_of_a_call)


def fork_in_the_middle_of_a_call() -> None:
    with serving("Head") as server:
        assert server.stdout is not None
        endpoints = server.stdout.readline().strip()
        with holdfast.connect(endpoints, timeout=holdfast.Timeout(idle=3.0)) as client:
            bucket = client.create_bucket("b")
            bucket.put("k", b"x")
            found: list[int] = []
            thread = threading.Thread(target=lambda: found.append(bucket.head("k").version))
            thread.start()

            def child() -> None:
                with pytest.raises(holdfast.Unavailable, match="forked"):
                    bucket.head("k")

            assert in_child(child) == 0
            thread.join()
            assert found == [1]
        server.terminate()


def test_an_unread_blob_does_not_keep_a_stream(servers: Running) -> None:
    with holdfast.connect(servers.endpoints) as client:
        bucket = client.create_bucket("b")
        bucket.put("k", b"x" * 100_000)
        for _ in range(300):
            bucket.get("k")
        assert bucket.get("k").read() == b"x" * 100_000


def test_a_closed_client_says_so(servers: Running) -> None:
    client = holdfast.connect(servers.endpoints)
    bucket = client.create_bucket("b")
    client.close()
    client.close()
    with pytest.raises(holdfast.Unavailable, match="closed"):
        bucket.head("k")


def test_a_progress_callback_cannot_wait_for_its_own_client(servers: Running) -> None:
    with holdfast.connect(servers.endpoints) as client:
        bucket = client.create_bucket("b")

        def ask(done: int, total: int | None) -> None:
            bucket.info()

        with pytest.raises(holdfast.InvalidArgument, match="callback"):
            bucket.put("k", b"x", progress=ask)


def test_importing_is_light() -> None:
    code = "import sys, holdfast; print('grpc' in sys.modules, 'google.protobuf' in sys.modules, 'rich' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert found.split() == ["False", "False", "False"]


def test_a_fault_is_described() -> None:
    assert Fault(hang=True).hang
