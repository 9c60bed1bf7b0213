"""Every generation of the corpus is read by this version as it was by the one that wrote it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from holdfast_node.adapters.records import ProtobufBodies
from holdfast_node.core.records import RecordType
from holdfast_node.services.link.frames import REPLIES, REQUESTS, FrameType
from holdfast_node.services.link.hello import Context, ErrorDetail, Hello
from tests.corpus.making import add
from tests.corpus.reading import (
    HERE,
    differences,
    message_types,
    read_frame,
    read_message,
    read_store,
    unpack,
)
from tests.crashes.facts import Fact

GENERATIONS = sorted(path for path in HERE.iterdir() if (path / "stores.json").is_file())
STORES = [archive for generation in GENERATIONS for archive in sorted(generation.glob("*.tar.xz"))]
LINK_BODIES = {
    int(FrameType.HELLO): Hello,
    int(FrameType.GOODBYE): ErrorDetail,
    int(FrameType.ERROR): ErrorDetail,
}
CORPUS_BYTES_MAX = 1 << 20


def manifest(generation: Path, name: str) -> Any:
    return json.loads((generation / name).read_text())


@pytest.mark.parametrize(
    "archive", STORES, ids=lambda path: f"{path.parent.name}/{path.name.partition('.')[0]}"
)
def test_a_store_has_in_it_what_it_had(archive: Path, tmp_path: Path) -> None:
    wanted = manifest(archive.parent, "stores.json")[archive.name.partition(".")[0]]
    asked = [one["fact"] for one in wanted["facts"]]
    facts = [Fact(fact["kind"], bytes.fromhex(fact["name"]), fact["number"]) for fact in asked]
    unpack(archive, tmp_path)
    assert differences(wanted, read_store(tmp_path, facts)) == []


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda path: path.name)
def test_messages_and_frames_mean_what_they_meant(generation: Path) -> None:
    told = manifest(generation, "messages.json")
    for one in told["messages"]:
        data = bytes.fromhex(one["bytes"])
        fields, again = read_message(one["message"], data)
        assert differences(one["fields"], fields, one["message"]) == []
        assert again == data, one["message"]
    for one in told["frames"]:
        data = bytes.fromhex(one["bytes"])
        fields, again = read_frame(data)
        assert differences(one["fields"], fields) == []
        assert again == data, fields["name"]


@pytest.mark.parametrize("generation", GENERATIONS, ids=lambda path: path.name)
def test_the_body_of_a_frame_is_read_as_a_value_and_written_again(generation: Path) -> None:
    bodies = ProtobufBodies()
    for one in manifest(generation, "messages.json")["frames"]:
        fields = one["fields"]
        assert (
            bodies.encode(bodies.decode(Context, bytes.fromhex(fields["context"]))).hex() == fields["context"]
        )
        number: int = fields["type"]
        cls: Any = REQUESTS.get(number) or REPLIES.get(number) or LINK_BODIES.get(number)
        if cls is not None:
            value = bodies.decode(cls, bytes.fromhex(fields["body"]))
            assert bodies.encode(value).hex() == fields["body"], fields["name"]


def test_the_newest_generation_has_everything_there_is() -> None:
    told, seen = manifest(GENERATIONS[-1], "messages.json"), manifest(GENERATIONS[-1], "stores.json")
    assert {number for store in seen.values() for number in store["record_types"]} == set(RecordType)
    assert {one["message"] for one in told["messages"]} == set(message_types())
    assert {one["fields"]["type"] for one in told["frames"]} == set(FrameType)


def test_rot_and_torn_tails_are_among_the_stores() -> None:
    told = manifest(HERE / "v1", "stores.json")
    assert not told["closed"]["rotten"]
    batches = told["closed"]["whole_batches"]
    assert batches == list(range(1, len(batches) + 1))
    assert len(told["rotten_vote"]["whole_batches"]) == len(batches) - 1
    assert not told["torn"]["rotten"]
    assert told["torn"]["store_time_s"] == 1234
    torn = {
        one["fact"]["name"]: one["is"] for one in told["torn"]["facts"] if one["fact"]["kind"] == "register"
    }
    assert torn[b"torn".hex()] is None
    assert torn[b"key 0".hex()]["accepted"]["counter"] == 50
    assert [key for _, key in told["rotten_register"]["rotten_keys"]] == [b"key 1".hex()]
    assert told["rotten_vote"]["lost_from"]
    assert told["mended"]["lost_from"] == told["rotten_vote"]["lost_from"]


def test_a_generation_is_never_rewritten() -> None:
    with pytest.raises(FileExistsError):
        add(GENERATIONS[0])


def test_the_corpus_stays_small() -> None:
    assert sum(path.stat().st_size for path in HERE.rglob("*") if path.is_file()) < CORPUS_BYTES_MAX
