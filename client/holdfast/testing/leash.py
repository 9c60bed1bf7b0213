"""Runs a module that must not outlive whoever started it: `python -m holdfast.testing.leash MODULE ARGS...`.

Standard input is a pipe whose other end only the starter holds. When the starter ends, in whatever way, the kernel
closes it, and this process kills itself. (A death signal from the kernel would come already when the starter's
*thread* ends.)
"""

from __future__ import annotations

import os
import runpy
import signal
import sys
import threading


def _watch() -> None:
    while os.read(0, 4096):
        pass
    os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    threading.Thread(target=_watch, name="leash", daemon=True).start()
    sys.argv = sys.argv[1:]
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
