"""The thrasher at its shortest: a few nemeses that need no root, every promise judged, and nothing left behind."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.workload import shared_bytes, shared_content
from tests.sim.checker import Kind, Op, Result
from tests.thrash import enclosure
from tests.thrash.load import verdict
from tests.thrash.network import Network

ROOT = Path(__file__).resolve().parents[2]


def _run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.thrash", "--seed", "1", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.timeout(240)
def test_a_short_run_keeps_every_promise(tmp_path: Path) -> None:
    done = _run("--short", "--open")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout
    struck = [line.split()[-1] for line in done.stdout.splitlines() if line.startswith("nemesis: ")]
    assert any(int(times) for times in struck), "how many strike in so short a time depends on the machine"


@pytest.mark.skipif(bool(why := enclosure.missing()), reason=f"no namespaces of its own: {why}")
@pytest.mark.skipif(enclosure.inside(), reason="this is a run of the thrasher")
def test_packets_between_two_nodes_can_be_cut_and_nothing_stays_behind() -> None:
    before = sorted(Path("/sys/class/net").iterdir())
    done = subprocess.run(
        ["unshare", *enclosure.KINDS, sys.executable, "-c", _CUT],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["reached", "cut", "reached"]
    assert sorted(Path("/sys/class/net").iterdir()) == before


_CUT = """
import subprocess
from tests.thrash import enclosure
from tests.thrash.network import Network
enclosure.furnish()
network = Network(["n1", "n2"])
network.build()
def ping():
    place, to = network.places["n1"], network.places["n2"].address
    code = "import socket,sys; s=socket.socket(); s.settimeout(1)\\n" + f"try: s.connect(('{to}', 9))\\n" + \
        "except ConnectionRefusedError: print('reached')\\n" + "except OSError: print('cut')"
    subprocess.run([*place.within, enclosure.python(), "-c", code], check=True)
ping()
network.cut(["n1"], ["n2"])
ping()
network.mend()
ping()
"""


def test_names_of_nodes_are_addresses_of_loopback() -> None:
    assert all(place.address.startswith("127.") for place in Network(["n1", "n2"]).places.values())


def test_a_deleted_content_that_is_back_is_called_resurrected() -> None:
    put = Op(Kind.PUT, 1, 2, Result.DONE, 1, "a")
    gone = Op(Kind.DELETE, 3, 4, Result.DONE, 2)
    back = Op(Kind.READ, 5, 6, Result.DONE, 1, "a")
    assert verdict([put, gone]) == ""
    assert verdict([put, gone, back]).startswith("RESURRECTED")


def test_contents_of_contended_keys_are_told_from_other_bytes() -> None:
    names = [f"c1.{number}" for number in range(40)]
    assert [shared_content(shared_bytes(name)) for name in names] == names
    assert max(len(shared_bytes(name)) for name in names) > 6000
    assert "nobody wrote" in shared_content(b"c1.1|torn")
