"""The gate before every vote: which marks prove that another life of this store has been seen."""

from holdfast_node.core.ids import BootId, ClusterId, NodeName, StoreId
from holdfast_node.core.messages import IntroduceReply
from holdfast_node.services.membership import NEVER_AGAIN, TWO_AT_ONCE, Life, later_life_seen

MINE = Life(boot=7, boot_id=BootId(b"b" * 16), recovered_sequence=100)


def peer(*, boot: int, boot_id: bytes = b"x" * 16, sequence: int = 0) -> IntroduceReply:
    return IntroduceReply(
        node=NodeName("n2"),
        store=StoreId(b"s" * 16),
        cluster_id=ClusterId(b"c" * 16),
        boot=1,
        boot_id=BootId(b"p" * 16),
        epoch=1,
        seen_boot=boot,
        seen_boot_id=BootId(boot_id),
        seen_sequence=sequence,
    )


def test_a_peer_that_never_met_us_proves_nothing() -> None:
    assert not later_life_seen(MINE, peer(boot=0))


def test_an_earlier_boot_with_no_more_records_than_recovered_is_our_own_past() -> None:
    assert not later_life_seen(MINE, peer(boot=6, sequence=100))


def test_a_higher_boot_means_this_is_an_old_snapshot() -> None:
    assert "boot 8" in later_life_seen(MINE, peer(boot=8))


def test_an_earlier_boot_with_records_we_lack_means_this_is_an_old_snapshot() -> None:
    assert "record 101" in later_life_seen(MINE, peer(boot=6, sequence=101))
    for mark in (NEVER_AGAIN, TWO_AT_ONCE):
        assert "without all its records" in later_life_seen(MINE, peer(boot=6, sequence=mark))


def test_our_boot_number_under_another_boot_id_means_a_copy_is_running() -> None:
    assert "copy" in later_life_seen(MINE, peer(boot=7, boot_id=b"z" * 16))


def test_our_own_boot_is_us() -> None:
    assert not later_life_seen(MINE, peer(boot=7, boot_id=b"b" * 16, sequence=500))
    assert not later_life_seen(MINE, peer(boot=7, boot_id=b"b" * 16, sequence=TWO_AT_ONCE))


def test_our_own_boot_is_told_what_was_found_when_it_came() -> None:
    assert "records" in later_life_seen(MINE, peer(boot=7, boot_id=b"b" * 16, sequence=NEVER_AGAIN))
