"""`clusterctl status` is one screen: 24 lines of 100 columns for six nodes, whole or with a SAN gone."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from holdfast.cli import shell
from holdfast.cli.shell import Output
from holdfast_ctl import report, screen
from holdfastpb.v1 import admin_pb2, blob_pb2

LINES, COLUMNS = 24, 100
WORK = ("learner", "follower", "healer", "scrubber", "compactor", "collector")

Shown = Callable[[admin_pb2.StatusReply], list[str]]


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Shown:
    """What a terminal of the usual size shows, without what is blank at the ends of lines."""
    monkeypatch.setattr(shell, "PIPE_COLUMNS", COLUMNS)

    def show(found: admin_pb2.StatusReply) -> list[str]:
        screen.status(Output(), found)
        lines = [line.rstrip() for line in capsys.readouterr().out.splitlines()]
        assert max(map(len, lines)) <= COLUMNS
        return lines

    return show


def margin(*, node: int, host: int, san: int, full: bool) -> blob_pb2.Margin:
    counts = {"node": node, "host": host, "san": san}
    entries = [blob_pb2.Margin.Entry(tag=tag, survives=count) for tag, count in counts.items()]
    return blob_pb2.Margin(entries=entries, full=full)


def six() -> admin_pb2.StatusReply:
    """All in order."""
    nodes = [
        admin_pb2.NodeStatus(
            name=f"n{number}",
            address=f"10.0.0.{number}:7100",
            tags={"host": f"h{number}", "san": "aabbcc"[number - 1]},
            state="up",
            voting=True,
            used_bytes=5 << 20,
            capacity_bytes=1 << 40,
            uptime_s=3 * 86400.0,
            shards="proven",
            unproven_s=3600.0 * number,
            promised_s=7 * 86400.0,
        )
        for number in range(1, 7)
    ]
    return admin_pb2.StatusReply(
        cluster_id=bytes.fromhex("8b9a4f2100000000"),
        epoch=1,
        nodes=nodes,
        blobs=7,
        bytes=20 << 20,
        least_margin=margin(node=2, host=2, san=1, full=True),
        partitions=64,
        partitions_full=64,
        healthy=True,
        voters=["n1", "n2", "n3", "n4", "n5"],
    )


def without_a_san() -> admin_pb2.StatusReply:
    """Its two nodes are gone, and the other four do all the work there is."""
    found = six()
    found.healthy = False
    found.least_margin.CopyFrom(margin(node=0, host=0, san=0, full=False))
    found.partitions_full, found.partitions_degraded = 0, 64
    for node in found.nodes[2:4]:
        node.state, node.voting, node.shards = "down", False, "claimed"
        node.uptime_s = node.promised_s = node.unproven_s = node.capacity_bytes = 0
        found.problems.append(
            f"{node.name} does not answer at {node.address}: start it; if its data is gone, start it empty and run "
            f"`clusterctl node replace --lost {node.name}`"
        )
    found.problems.append("3 keys have shards that are not at their homes yet, heal is under way")
    for name in WORK:
        for at, node in enumerate((*found.nodes[:2], *found.nodes[4:])):
            found.workers.add(
                node=node.name,
                name=name,
                state="busy",
                detail="x" * 300,
                done=at,
                total=10,
                rate_bytes_s=1024,
                eta_s=60 * at,
            )
    return found


def test_a_whole_cluster(shown: Shown) -> None:
    assert (
        shown(six())
        == """\
cluster 8b9a4f21 · healthy · epoch 1
survives the loss of   2 node, 2 host, 1 san   (least margin of any blob)
partitions             64 of 64 full · 7 blobs, 20.0 MiB
oldest unproven byte   6.0 h, at n6 (promised: 7.0 d)
voters                 n1 n2 n3 n4 n5
node   tags            state   votes   shards   used      up for
────────────────────────────────────────────────────────────────
n1     host=h1 san=a   up      yes     proven   5.0 MiB   3.0 d
n2     host=h2 san=a   up      yes     proven   5.0 MiB   3.0 d
n3     host=h3 san=b   up      yes     proven   5.0 MiB   3.0 d
n4     host=h4 san=b   up      yes     proven   5.0 MiB   3.0 d
n5     host=h5 san=c   up      yes     proven   5.0 MiB   3.0 d
n6     host=h6 san=c   up      yes     proven   5.0 MiB   3.0 d""".splitlines()
    )


def test_without_a_san_while_all_heal_and_scrub_it_is_still_one_screen(shown: Shown) -> None:
    found = without_a_san()
    del found.workers[16:], found.workers[:8]
    lines = shown(found)
    assert len(lines) < LINES, "the prompt needs one, too"
    assert lines[2:4] == [
        "partitions             0 of 64 full, 64 degraded · 7 blobs, 20.0 MiB",
        "oldest unproven byte   6.0 h, at n6 (promised: 7.0 d); not known of n3 n4",
    ]
    assert lines[-6:] == [
        "! the next loss may take blobs: `clusterctl risk list` names them",
        "! n3 does not answer at 10.0.0.3:7100: start it; if its data is gone, start it empty and run",
        "  `clusterctl node replace --lost n3`",
        "! n4 does not answer at 10.0.0.4:7100: start it; if its data is gone, start it empty and run",
        "  `clusterctl node replace --lost n4`",
        "! 3 keys have shards that are not at their homes yet, heal is under way",
    ]


def test_a_row_of_work_tells_of_all_who_do_it(shown: Shown) -> None:
    found = without_a_san()
    found.workers.add(node="n3", name="collector", state="idle", done=0, total=100)
    found.workers[20].state = "throttled"
    for worker in found.workers[4:8]:  # followers: they never end
        worker.done, worker.eta_s = 10, 0
    found.workers[12].eta_s = -1
    rows = [line for line in shown(found) if line.startswith(WORK)]
    assert rows == [
        "learner     n1 n2 n5 n6   busy             6 of 40   4.0 KiB/s   3 min",
        "healer      n1 n2 n5 n6   busy             6 of 40   4.0 KiB/s   3 min",
        "scrubber    n1 n2 n5 n6   busy             6 of 40   4.0 KiB/s   not known",
        "compactor   n1 n2 n5 n6   busy             6 of 40   4.0 KiB/s   3 min",
        "collector   n1 n2 n5 n6   throttled busy   6 of 40   4.0 KiB/s   3 min",
    ]


def test_a_node_that_is_late_with_reading_back_is_named_with_the_next_command(shown: Shown) -> None:
    found = six()
    found.nodes[4].unproven_s = 8 * 86400.0
    lines = shown(found)
    assert "oldest unproven byte   8.0 d, at n5 (promised: 7.0 d)" in lines
    assert lines[-1] == "! not read back within the time promised: n5; `clusterctl scrub` says how far it is"
    for node in found.nodes:
        node.promised_s = node.unproven_s = 0
    lines = shown(found)
    assert "oldest unproven byte   not known" in lines
    assert not lines[-1].startswith("!")


def test_no_more_is_claimed_than_is_known(shown: Shown) -> None:
    found = six()
    found.partitions_unreported = 17
    found.least_margin.CopyFrom(margin(node=-1, host=-1, san=-1, full=False))
    found.blobs = 0
    lines = shown(found)
    assert lines[2].endswith("17 not reported · at least 0 blobs, 20.0 MiB")
    assert lines[1].startswith("survives the loss of   nothing: too little is there now [not full]")
    assert lines[-1].endswith("`clusterctl risk list` names them")
    found.partitions_unreported = 0
    assert not shown(found)[-1].startswith("!"), "there is nothing to lose"


def test_of_many_nodes_some_are_named(shown: Shown) -> None:
    found = six()
    for number in range(7, 20):
        found.nodes.add(name=f"n{number}", state="down", shards="claimed")
    assert any(line.endswith("not known of n7 n8 n9 n10 n11 n12 and 7 more") for line in shown(found))


def test_names_and_reasons_cannot_steer_the_terminal(shown: Shown) -> None:
    found = six()
    found.nodes[0].name = "n1\x1b[2J"
    found.nodes[0].unproven_s = 1e6
    found.problems.append("n1\x1b[2J [red]is[/red] odd")
    said = "\n".join(shown(found))
    assert "\x1b" not in said
    assert "[red]is[/red] odd" in said


@pytest.mark.parametrize(
    ("seconds", "text"), [(89, "89 s"), (91, "2 min"), (5400, "1.5 h"), (172_800, "2.0 d")]
)
def test_time_is_told_in_its_unit(seconds: float, text: str) -> None:
    assert report.time_text(seconds) == text
