"""`python -m holdfast_ctl.demo`, which is `make demo`. Exit status 0 says that nothing acknowledged was lost.

Nothing outlives it: an interrupt or SIGTERM stops the nodes, and if this process is killed outright the nodes end by
themselves (see `holdfast.testing.leash`).
"""

from __future__ import annotations

import argparse
import secrets
import signal
import sys
import time
from pathlib import Path
from types import FrameType

from holdfast.cli.shell import EXIT_INTERRUPTED, size_text
from holdfast.errors import Error
from holdfast.testing import LocalCluster
from holdfast.values import printable
from holdfast_ctl.demo.board import Board
from holdfast_ctl.demo.story import Story

ROOT = Path(".holdfast/demo")


class Stopped(BaseException):
    """SIGTERM or SIGHUP: like Ctrl-C, so that every `finally` runs."""


def main(arguments: list[str] | None = None) -> int:
    options = _options(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    cluster = LocalCluster(options.dir, nodes=6, sans=3, code="rs:4+2")
    board = Board()
    seed = options.seed or secrets.token_hex(4)
    story = Story(cluster, board, source=Path.cwd(), seed=seed, big_bytes=options.big_mib * 1024 * 1024)
    board.say(f"seed {seed}; watch with: clusterctl --dir {options.dir} status")
    began = time.monotonic()
    good = False
    try:
        if cluster.exists:
            cluster.wipe()
        story.tell()
        good = _told(board, story, time.monotonic() - began)
    except Error as error:
        sys.stderr.write(f"demo: {printable(str(error))}\n")
        _told(board, story, time.monotonic() - began)
    except (KeyboardInterrupt, Stopped):
        sys.stderr.write("interrupted; stopping the nodes\n")
        return EXIT_INTERRUPTED
    finally:
        cluster.close()
        if good and not options.keep:
            (cluster.root / "generated.bin").unlink(missing_ok=True)
            cluster.wipe()
    print("the cluster is stopped" + ("" if good else f"; its data and logs are in {cluster.root}"))
    return 0 if good else 1


def _told(board: Board, story: Story, took_s: float) -> bool:
    """Prints the table; whether nothing was lost, and everything was checked."""
    ledger, facts = story.ledger, story.facts
    lost = len({evidence.who for evidence in facts.wrong})
    unchecked = len(ledger) - facts.read_back - lost
    good = bool(ledger) and not lost and not unchecked and facts.healthy and facts.at_risk == 0
    rows = [
        ("blobs written", str(ledger.written)),
        ("acknowledged", str(len(ledger))),
        ("read back, byte for byte", str(facts.read_back)),
        ("bytes", f"{size_text(ledger.bytes)}"),
        ("write errors seen by the caller", str(len(ledger.errors))),
        ("nodes lost (killed and wiped)", f"{len(facts.lost_nodes)} ({facts.lost_san})"),
        ("time to heal", f"{facts.heal_s:.1f} s" if facts.healthy else "not healed"),
        ("survives now", facts.least_margin or "not known"),
        ("at risk from any one more loss", str(facts.at_risk) if facts.at_risk >= 0 else "not known"),
        *([("not read back yet", str(unchecked))] if unchecked else []),
        ("lost", str(lost)),
    ]
    board.table(f"\nwhat happened, in {took_s:.0f} s", rows)
    for evidence in facts.wrong[:20]:
        sys.stderr.write(f"lost: {printable(str(evidence))}\n")
    for said in ledger.errors[:5]:
        sys.stderr.write(f"a write failed: {printable(said)}\n")
    return good


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m holdfast_ctl.demo", description=__doc__)
    parser.add_argument(
        "--dir", type=Path, default=ROOT, help="where the cluster lives (default %(default)s)"
    )
    parser.add_argument("--seed", default="", help="chooses the SAN and the contents; default random")
    parser.add_argument(
        "--big-mib", type=int, default=256, help="size of the generated file (default %(default)s)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the stopped cluster's data")
    return parser.parse_args(arguments)


def _stop(_number: int, _frame: FrameType | None) -> None:
    raise Stopped


if __name__ == "__main__":
    sys.exit(main())
