"""From a path to a Config: read, parse, check every leaf, check what leaves mean together, and only then build.

Nothing is raised on the way: mistakes are collected, and the first exception holds all of them.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Final, TypeVar, get_args, get_type_hints

import msgspec

from holdfast_node.config.checks import Finding, Parts, check
from holdfast_node.config.mistakes import ConfigError, KeyPath, Mistake, suggestion
from holdfast_node.config.schema import (
    ClusterConfig,
    Config,
    Leaf,
    LimitsConfig,
    LostConfig,
    NodeConfig,
    PoolConfig,
    ScrubConfig,
    UndoConfig,
)
from holdfast_node.config.values import as_array, as_table

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FILE_BYTES_MAX: Final = 4 * 1024 * 1024
"""A thousand nodes take 200 KiB; anything larger is another file."""
SHOWN_MAX: Final = 60
"""Characters of a wrong value that a report repeats."""

_TABLES: Final = ("cluster", "pool", "node", "limits", "undo", "scrub", "lost")
_AT_LINE: Final = re.compile(r" \(at line (\d+), column \d+\)$")

T = TypeVar("T", bound="DataclassInstance")


def load(path: Path) -> Config:
    """The file as a Config, relative `data_dir`s taken from the file's own directory.

    Raises ConfigError with every mistake of the file; a file that is not TOML has one.
    """
    text = _read(path)
    try:
        document: dict[str, object] = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also for 5000 digits, or 1000 brackets
        raise ConfigError((_syntax(text, str(error)),), path) from error
    reader = _Reader()
    parts = reader.parts(document)
    findings = [*reader.findings, *check(parts)]
    if findings:
        raise ConfigError(_located(text, document, findings), path)
    assert parts.cluster is not None
    assert parts.limits is not None
    nodes = (replace(node, data_dir=path.absolute().parent / node.data_dir) for node in parts.nodes.values())
    return Config(
        cluster=parts.cluster,
        pools=tuple(parts.pools.values()),
        nodes=tuple(nodes),
        limits=parts.limits,
        undo=reader.undo,
        scrub=reader.scrub,
        lost=reader.lost,
        path=path,
    )


def _read(path: Path) -> str:
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_BYTES_MAX + 1)
    except OSError as error:
        wrong = f"cannot be read: {error.strerror}"
        raise ConfigError(
            (Mistake(0, "", wrong, "give the path of the cluster's TOML file"),), path
        ) from error
    if len(raw) > FILE_BYTES_MAX:
        wrong = f"is larger than {FILE_BYTES_MAX} bytes"
        raise ConfigError((Mistake(0, "", wrong, "give the path of the cluster's TOML file"),), path)
    try:
        return raw.decode()
    except UnicodeDecodeError as error:
        line = raw[: error.start].count(b"\n") + 1
        raise ConfigError((Mistake(line, "", "is not UTF-8", "save the file as UTF-8"),), path) from error


def _syntax(text: str, message: str) -> Mistake:
    place = _AT_LINE.search(message)
    line = int(place[1]) if place else text.rstrip().count("\n") + 1
    wrong = _AT_LINE.sub("", message)
    return Mistake(line, "", f"this is not TOML: {wrong[:1].lower()}{wrong[1:]}", "mend it and check again")


@dataclass(slots=True)
class _Reader:
    """Reads tables one leaf at a time and remembers what was wrong."""

    findings: list[Finding] = field(default_factory=list[Finding])
    undo: UndoConfig = field(default_factory=UndoConfig)
    scrub: ScrubConfig = field(default_factory=ScrubConfig)
    lost: LostConfig = field(default_factory=LostConfig)

    def parts(self, document: dict[str, object]) -> Parts:
        """Everything of the document that could be read."""
        for key in document:
            if key not in _TABLES:
                self._unknown((key,), key, _TABLES)
        cluster = None
        if "cluster" in document:
            cluster = self._table(ClusterConfig, document["cluster"], ("cluster",))
        else:
            self._add((), "there is no [cluster]", 'write [cluster] and under it name = "..."')
        undo = self._table(UndoConfig, document.get("undo", {}), ("undo",))
        self.undo = undo or self.undo
        scrub = self._table(ScrubConfig, document.get("scrub", {}), ("scrub",))
        self.scrub = scrub or self.scrub
        lost = self._table(LostConfig, document.get("lost", {}), ("lost",))
        self.lost = lost or self.lost
        return Parts(
            cluster=cluster,
            pools=self._array(PoolConfig, document, "pool"),
            nodes=self._array(NodeConfig, document, "node"),
            limits=self._table(LimitsConfig, document.get("limits", {}), ("limits",)),
        )

    def _array(self, cls: type[T], document: dict[str, object], key: str) -> dict[int, T]:
        raw = document.get(key)
        if raw is None or raw == []:
            self._add((), f"there is no [[{key}]]", f"write at least one [[{key}]]")
            return {}
        entries = as_array(raw)
        if entries is None:
            self._add(
                (key,), "is one value", f"write [[{key}]] with two pairs of brackets, once for each {key}"
            )
            return {}
        read = ((index, self._table(cls, entry, (key, index))) for index, entry in enumerate(entries))
        return {index: entry for index, entry in read if entry is not None}

    def _table(self, cls: type[T], raw: object, at: KeyPath) -> T | None:
        """The table as a `cls`, or None after noting everything that is wrong in it."""
        table = as_table(raw)
        if table is None:
            self._add(at, f"{_shown(raw)} is not a table", f"write [{at[0]}] and the keys under it")
            return None
        before = len(self.findings)
        hints = get_type_hints(cls, include_extras=True)
        known = [spec.name for spec in fields(cls)]
        for key in table:
            if key not in known:
                self._unknown((*at, key), key, known)
        read: dict[str, object] = {}
        for spec in fields(cls):
            hint: object = hints[spec.name]
            if spec.name in table:
                read[spec.name] = self._leaf(hint, table[spec.name], (*at, spec.name))
            elif spec.default is MISSING:
                self._add((*at, spec.name), "is missing", f"write {spec.name} = {_leaf_of(hint).example}")
        if len(self.findings) > before:
            return None
        return msgspec.convert(read, cls, dec_hook=_as_path)

    def _leaf(self, hint: object, raw: object, at: KeyPath) -> object:
        leaf = _leaf_of(hint)
        instead = f"write {at[-1]} = {leaf.example}"
        try:
            value = leaf.parse(raw)
        except ValueError as error:
            self._add(at, f"{_shown(raw)} {error}", instead)
            return None
        try:
            return msgspec.convert(value, hint, dec_hook=_as_path)
        except msgspec.ValidationError:
            self._add(at, f"{_shown(raw)} is not {leaf.expected}", instead)
            return None

    def _unknown(self, at: KeyPath, key: str, known: tuple[str, ...] | list[str]) -> None:
        allowed = f"the keys here are {', '.join(known)}"
        self._add(at, "is unknown", suggestion(key, known) or allowed)

    def _add(self, at: KeyPath, wrong: str, instead: str) -> None:
        self.findings.append((at, wrong, instead))


def _leaf_of(hint: object) -> Leaf:
    return next(extra for extra in get_args(hint) if isinstance(extra, Leaf))


def _as_path(wanted: type[object], raw: object) -> object:
    """msgspec asks here for the one type it does not know."""
    if isinstance(raw, wanted):
        return raw
    if not isinstance(raw, str):
        raise TypeError("not a text")
    return Path(raw)


def _shown(raw: object) -> str:
    """A value as TOML would show it, cut to a length that a report can bear. Control bytes come out escaped."""
    if isinstance(raw, str | bool | int | list | dict):
        text = json.dumps(raw, ensure_ascii=True, default=str)
    else:
        text = str(raw)
    return text if len(text) <= SHOWN_MAX else f"{text[: SHOWN_MAX - 3]}..."


def _located(text: str, document: dict[str, object], findings: list[Finding]) -> tuple[Mistake, ...]:
    """Only a file with mistakes pays for a second parser, the one that knows lines."""
    from holdfast_node.config.positions import lines, nearest

    places = lines(text)
    return tuple(
        Mistake(nearest(places, at), _key_text(document, at), wrong, instead)
        for at, wrong, instead in findings
    )


def _key_text(document: dict[str, object], at: KeyPath) -> str:
    """`node[n2].address`: entries go by their names where they have one, else by their place from 1."""
    text = ""
    level: object = document
    for step in at:
        level = _below(level, step)
        if isinstance(step, int):
            name = _below(level, "name")
            text += f"[{name}]" if isinstance(name, str) and name.isprintable() else f"[#{step + 1}]"
        else:
            shown = step if re.fullmatch(r"[A-Za-z0-9_-]+", step) else json.dumps(step)
            text += f".{shown}" if text else shown
    return text


def _below(level: object, step: str | int) -> object:
    if isinstance(step, int):
        array = as_array(level)
        return array[step] if array else None
    table = as_table(level)
    return table.get(step) if table else None
