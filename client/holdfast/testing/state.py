"""Which processes belong to a local cluster: a small file, replaced as a whole, and a lock against two commands."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import time
from collections.abc import Generator, Mapping
from pathlib import Path
from typing import Final, cast

from holdfast.testing.processes import Process
from holdfast.testing.refusals import LocalRefused

STATE_NAME: Final = "state.json"
LOCK_NAME: Final = "lock"
VERSION: Final = 1
LOCK_WAIT_S: Final = 60.0


def load(root: Path) -> dict[str, Process]:
    """Node name -> the process last started for it, which may have ended. A lost file means none is known."""
    try:
        content = json.loads((root / STATE_NAME).read_text())
        nodes = cast("Mapping[str, Mapping[str, int]]", content["nodes"])
        return {name: Process(int(entry["pid"]), int(entry["started"])) for name, entry in nodes.items()}
    except FileNotFoundError:
        return {}
    except (ValueError, KeyError, TypeError) as error:
        raise LocalRefused(
            f"{root / STATE_NAME} is damaged ({error!r}), so which processes are the cluster's is not known",
            hint=f"end them by hand (`pgrep -f {root}`), then remove the file",
        ) from error


def save(root: Path, processes: Mapping[str, Process]) -> None:
    nodes = {name: {"pid": process.pid, "started": process.started} for name, process in processes.items()}
    temporary = root / f".{STATE_NAME}.{os.getpid()}"
    temporary.write_text(json.dumps({"version": VERSION, "nodes": nodes}, indent=2) + "\n")
    temporary.replace(root / STATE_NAME)


@contextlib.contextmanager
def locked(root: Path) -> Generator[None, None, None]:
    """One command at a time on a directory; the lock goes with the process that holds it."""
    root.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(root / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        deadline = time.monotonic() + LOCK_WAIT_S
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() >= deadline:
                    raise LocalRefused(
                        f"another command is at work in {root}", hint="wait for it to end"
                    ) from error
                time.sleep(0.05)
        yield
    finally:
        os.close(descriptor)
