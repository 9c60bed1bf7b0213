"""The one configuration file: what is read, what is refused, and that every mistake is reported at once."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from holdfast_node.config import Config, ConfigError, load
from holdfast_node.config.positions import lines
from holdfast_node.config.schema import (
    ClusterConfig,
    LimitsConfig,
    NodeConfig,
    PoolConfig,
    ScrubConfig,
    UndoConfig,
)
from holdfast_node.config.values import duration_s, duration_text, size_bytes, size_text, split_address
from holdfast_node.core.codes import OFFERED

EXAMPLE = Path(__file__).resolve().parents[2] / "cluster.example.toml"

GOOD = """\
[cluster]
name = "c"
[[pool]]
name = "main"
code = "rs:2+1"
[[node]]
name = "n1"
address = "127.0.0.1:7101"
data_dir = "d1"
tags = { host = "h1" }
"""


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "cluster.toml"
    path.write_text(text)
    return path


def mistakes(tmp_path: Path, text: str) -> list[tuple[int, str, str]]:
    with pytest.raises(ConfigError) as caught:
        load(write(tmp_path, text))
    return [
        (mistake.line, mistake.key, f"{mistake.wrong}; {mistake.instead}")
        for mistake in caught.value.mistakes
    ]


def only_mistake(tmp_path: Path, text: str) -> tuple[int, str, str]:
    (found,) = mistakes(tmp_path, text)
    return found


class TestWhatIsRead:
    def test_a_minimal_file_gets_every_default(self, tmp_path: Path) -> None:
        config = load(write(tmp_path, GOOD))
        assert config.cluster.simulated_domains is False
        assert (config.pools[0].partitions, config.pools[0].ack_floor) == (64, "any-node")
        assert config.limits == LimitsConfig()
        assert config.limits.coordinate_bytes == 128 * 1024 * 1024
        assert config.undo.window_s == 24 * 3600
        assert config.nodes[0].weight == 1

    def test_sizes_and_durations_are_numbers_or_texts(self, tmp_path: Path) -> None:
        text = GOOD + '[limits]\nkeep_bytes = 16777216\nrepair_bytes = "16 MiB"\n[undo]\nwindow = "1h30m"\n'
        config = load(write(tmp_path, text))
        assert config.limits.keep_bytes == config.limits.repair_bytes == 16 * 1024 * 1024
        assert config.undo.window_s == 5400

    def test_a_relative_directory_starts_at_the_file(self, tmp_path: Path) -> None:
        assert load(write(tmp_path, GOOD)).nodes[0].data_dir == tmp_path / "d1"

    def test_tags_are_sorted_pairs(self, tmp_path: Path) -> None:
        text = GOOD.replace('{ host = "h1" }', '{ san = "a", host = "h1" }')
        assert load(write(tmp_path, text)).nodes[0].tags == (("host", "h1"), ("san", "a"))

    def test_an_ipv6_address_keeps_its_brackets(self, tmp_path: Path) -> None:
        node = load(write(tmp_path, GOOD.replace("127.0.0.1", "[::1]"))).nodes[0]
        assert (node.address, node.host, node.port) == ("[::1]:7101", "::1", 7101)

    def test_protected_tags_default_to_those_on_every_node(self) -> None:
        config = load(EXAMPLE)
        assert config.protected_tags(config.pools[0]) == ("host", "rack", "san")
        assert config.partial_tags() == ()

    def test_a_tag_on_some_nodes_only_is_named(self, tmp_path: Path) -> None:
        text = GOOD.replace('"h1" }', '"h1", pdu = "p" }') + (
            '[[node]]\nname = "n2"\naddress = "127.0.0.1:7102"\ndata_dir = "d2"\ntags = { host = "h2" }\n'
        )
        config = load(write(tmp_path, text))
        assert config.partial_tags() == ("pdu",)
        assert config.protected_tags(config.pools[0]) == ("host",)

    def test_a_config_cannot_be_changed(self, tmp_path: Path) -> None:
        config = load(write(tmp_path, GOOD))
        with pytest.raises(AttributeError):
            config.cluster.name = "other"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]

    def test_a_node_is_found_by_name(self) -> None:
        assert load(EXAMPLE).node("n3").port == 7103

    def test_an_unknown_node_is_answered_with_the_nearest_name(self) -> None:
        with pytest.raises(ConfigError, match=r'no \[\[node\]\] is named "n33"; did you mean "n3"\?'):
            load(EXAMPLE).node("n33")


class TestTheExample:
    def test_it_loads(self) -> None:
        assert isinstance(load(EXAMPLE), Config)

    def test_it_names_every_key(self) -> None:
        present = {
            line.lstrip("# ").split(" = ")[0] for line in EXAMPLE.read_text().splitlines() if " = " in line
        }
        classes = (ClusterConfig, PoolConfig, NodeConfig, LimitsConfig, UndoConfig, ScrubConfig)
        assert {spec.name for cls in classes for spec in fields(cls)} <= present

    def test_what_it_comments_out_is_the_default(self, tmp_path: Path) -> None:
        keys = {
            spec.name
            for cls in (PoolConfig, NodeConfig, LimitsConfig, UndoConfig, ScrubConfig)
            for spec in fields(cls)
        }
        text = "".join(
            line.removeprefix("# ") if line.removeprefix("# ").split(" = ")[0] in keys else line
            for line in EXAMPLE.read_text().splitlines(keepends=True)
        )
        spelled, plain = load(write(tmp_path, text)), load(EXAMPLE)
        assert (spelled.limits, spelled.undo) == (plain.limits, plain.undo)
        assert [node.weight for node in spelled.nodes] == [node.weight for node in plain.nodes]
        assert spelled.protected_tags(spelled.pools[0]) == plain.protected_tags(plain.pools[0])


class TestWhatIsRefused:
    def test_all_mistakes_are_reported_at_once_in_order(self, tmp_path: Path) -> None:
        text = """\
[cluster]
name = "bad name"
simulated_domain = true

[[pool]]
code = "rs:40+2"
partitions = 65

[[node]]
name = "n1"
adress = "127.0.0.1:1"
data_dir = 7

[[node]]
name = "n2"
address = "10.0.0.2:7102"
data_dir = "d"
tags = { host = "" }

[limits]
keep_bytes = "64 MB"
streams = true
"""
        found = mistakes(tmp_path, text)
        assert [(line, key) for line, key, _ in found] == [
            (2, "cluster.name"),
            (3, "cluster.simulated_domain"),
            (5, "pool[#1].name"),
            (6, "pool[#1].code"),
            (7, "pool[#1].partitions"),
            (9, "node[n1].address"),
            (11, "node[n1].adress"),
            (12, "node[n1].data_dir"),
            (18, "node[n2].tags"),
            (21, "limits.keep_bytes"),
            (22, "limits.streams"),
        ]

    def test_the_report_reads_well(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load(write(tmp_path, GOOD.replace("rs:2+1", "rs:0+1").replace("[cluster]", "[clusters]")))
        assert str(caught.value) == (
            f"{tmp_path}/cluster.toml has 3 mistakes:\n"
            '  there is no [cluster]; write [cluster] and under it name = "..."\n'
            '  line 1: clusters: is unknown; did you mean "cluster"?\n'
            '  line 5: pool[main].code: "rs:0+1" is not a code that is offered: '
            f'{OFFERED}; write code = "rs:4+2"'
        )

    @pytest.mark.parametrize(
        ("old", "new", "line", "key", "says"),
        [
            ('name = "c"', "name = 3", 2, "cluster.name", "3 is not a name"),
            ("rs:2+1", "rs:11+6", 5, "pool[main].code", "is not a code that is offered"),
            ("rs:2+1", "rs:2+7", 5, "pool[main].code", "is not a code that is offered"),
            ("rs:2+1", "rs:2+0", 5, "pool[main].code", "is not a code that is offered"),
            ("rs:2+1", "copy:3", 5, "pool[main].code", "is not a code that is offered"),
            ("rs:2+1", "lrc:8+4/3", 5, "pool[main].code", "lrc:K+M/L with L groups of equal size"),
            ("127.0.0.1:7101", "127.0.0.1", 8, "node[n1].address", "is not an address"),
            ("127.0.0.1:7101", "127.0.0.1:0", 8, "node[n1].address", "no port from 1 to 65535"),
            ("127.0.0.1:7101", "::1:7101", 8, "node[n1].address", "is not an address"),
            ("127.0.0.1:7101", "0.0.0.0:7101", 8, "node[n1].address", "without TLS, which there is not yet"),
            ("127.0.0.1:7101", "node1.example:7101", 8, "node[n1].address", 'write "127.0.0.1:7101"'),
            ('"d1"', '""', 9, "node[n1].data_dir", "is empty"),
            ('{ host = "h1" }', '{ Host = "h1" }', 10, "node[n1].tags", "is not a table of tags"),
            ('{ host = "h1" }', "{ host = 1 }", 10, "node[n1].tags", "is not a table of tags"),
            ('{ host = "h1" }', '"h1"', 10, "node[n1].tags", '"h1" is not a table of tags'),
            ('{ host = "h1" }', '{ san = "a" }', 10, "node[n1].tags", 'no tag "host"'),
            ("[[node]]", "[node]", 6, "node", "two pairs of brackets"),
            ("[[node]]", "[[node]]\nweight = 0", 7, "node[n1].weight", "from 1 to 1000000"),
        ],
    )
    def test_a_wrong_value_is_named_with_its_line(
        self, tmp_path: Path, *, old: str, new: str, line: int, key: str, says: str
    ) -> None:
        assert old in GOOD
        found = only_mistake(tmp_path, GOOD.replace(old, new, 1))
        assert found[:2] == (line, key)
        assert says in found[2]

    @pytest.mark.parametrize(
        ("extra", "line", "key", "says"),
        [
            ('[limits]\nvolume_bytes = "1 MiB"\n', 12, "limits.volume_bytes", "a size from 16 MiB to 64 GiB"),
            ("[limits]\nvolume_bytes = 16777217\n", 12, "limits.volume_bytes", "not a multiple of 4096"),
            (
                '[limits]\nvolume_bytes = "64 MB"\n',
                12,
                "limits.volume_bytes",
                "units are B, KiB, MiB, GiB and TiB",
            ),
            ("[limits]\nconnections = 1.5\n", 12, "limits.connections", "1.5 is not a whole number"),
            ('[undo]\nwindow = "1 day"\n', 12, "undo.window", '"1 day" is not a duration'),
            ('[undo]\nwindow = "999d"\n', 12, "undo.window", "a duration from 0s to 365d"),
            ("[undo]\nwindw = 1\n", 12, "undo.windw", 'did you mean "window"?'),
            ("[webserver]\n", 11, "webserver", "the keys here are cluster, pool, node, limits, undo, scrub"),
            ('[[pool]]\nname = "main"\ncode = "rs:1+1"\n', 12, "pool[main].name", "taken by another pool"),
        ],
    )
    def test_a_wrong_table_is_named_with_its_line(
        self, tmp_path: Path, *, extra: str, line: int, key: str, says: str
    ) -> None:
        found = only_mistake(tmp_path, GOOD + extra)
        assert found[:2] == (line, key)
        assert says in found[2]

    def test_simulated_domains_want_loopback(self, tmp_path: Path) -> None:
        text = GOOD.replace('name = "c"', 'name = "c"\nsimulated_domains = true').replace(
            "127.0.0.1", "10.0.0.1"
        )
        assert [(line, key) for line, key, _ in mistakes(tmp_path, text)] == [
            (3, "cluster.simulated_domains"),
            (9, "node[n1].address"),
        ]

    def test_two_nodes_share_neither_name_address_nor_directory(self, tmp_path: Path) -> None:
        node = GOOD[GOOD.index("[[node]]") :]
        found = mistakes(tmp_path, GOOD + node)
        assert [key for _, key, _ in found] == ["node[n1].name", "node[n1].address", "node[n1].data_dir"]
        assert [line for line, _, _ in found] == [12, 13, 14]

    def test_a_protected_tag_must_be_on_some_node(self, tmp_path: Path) -> None:
        text = GOOD.replace('"rs:2+1"', '"rs:2+1"\nprotected_tags = [\n  "host",\n  "rak",\n]')
        line, key, says = only_mistake(tmp_path, text)
        assert (line, key) == (8, "pool[main].protected_tags[#2]")
        assert 'no node has the tag "rak"' in says

    def test_an_empty_file_lacks_three_things(self, tmp_path: Path) -> None:
        assert [line for line, _, _ in mistakes(tmp_path, "")] == [0, 0, 0]

    def test_what_is_not_toml_has_one_mistake_with_its_line(self, tmp_path: Path) -> None:
        line, _, says = only_mistake(tmp_path, '[cluster]\nname = "c\n')
        assert line == 2
        assert "this is not TOML" in says

    def test_what_is_not_text_has_one_mistake_with_its_line(self, tmp_path: Path) -> None:
        path = tmp_path / "cluster.toml"
        path.write_bytes(b'[cluster]\nname = "\xff"\n')
        with pytest.raises(ConfigError, match="line 2: is not UTF-8"):
            load(path)

    def test_a_missing_file_is_a_config_error(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError, match="cannot be read: No such file"):
            load(tmp_path / "none.toml")

    def test_control_bytes_of_the_file_never_reach_the_report(self, tmp_path: Path) -> None:
        with pytest.raises(ConfigError) as caught:
            load(
                write(
                    tmp_path,
                    GOOD.replace('"c"', r'"\u001b[2J"').replace("[cluster]", '[cluster]\n"\\u001b" = 1'),
                )
            )
        assert "\x1b" not in str(caught.value)


class TestPlaces:
    def test_every_form_of_key_has_its_line(self) -> None:
        text = (
            'a = 1\n[t."x y"]\nb.c = 2 # d = 3\n[[l]]\n[[l]]\n[l.sub]\n'
            'e = """\nf = 4\n"""\ng = [\n # no\n { h = 1 },\n]\n'
        )
        assert lines(text) == {
            ("a",): 1,
            ("t", "x y"): 2,
            ("t", "x y", "b", "c"): 3,
            ("l", 0): 4,
            ("l", 1): 5,
            ("l", 1, "sub"): 6,
            ("l", 1, "sub", "e"): 7,
            ("l", 1, "sub", "g"): 10,
            ("l", 1, "sub", "g", 0): 12,
            ("l", 1, "sub", "g", 0, "h"): 12,
        }


class TestValues:
    @pytest.mark.parametrize("size", [1, 1023, 1024, 1536, 1 << 20, 5 << 30, 1 << 40])
    def test_a_size_survives_being_written(self, size: int) -> None:
        assert size_bytes(size_text(size)) == size

    @pytest.mark.parametrize("seconds", [0, 1, 60, 61, 3600, 86400, 90061])
    def test_a_duration_survives_being_written(self, seconds: int) -> None:
        assert duration_s(duration_text(seconds)) == seconds

    @pytest.mark.parametrize("text", ["", ":", "h:", ":1", "h", "a b:1", "[::1]", "::1", "h/x:1", "h:\u0661"])
    def test_a_bad_address_has_no_host_or_no_port(self, text: str) -> None:
        host, port = split_address(text)
        assert not host or not port


def test_a_good_file_never_loads_the_second_parser() -> None:
    program = f"""
import sys
from pathlib import Path
from holdfast_node.config import load
load(Path({str(EXAMPLE)!r}))
assert "tree_sitter" not in sys.modules
assert "asyncio" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True)
