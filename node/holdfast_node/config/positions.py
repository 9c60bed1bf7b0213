"""The line of every key of a TOML text. The standard library's parser gives the values; this gives the places.

Loaded only when there is a mistake to report: a file without one never pays for it. It knows TOML and no key of ours.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator

import tree_sitter_toml
from tree_sitter import Language, Node, Parser

from holdfast_node.config.mistakes import KeyPath
from holdfast_node.config.values import as_table

_HEADERS = ("table", "table_array_element")


def lines(text: str) -> dict[KeyPath, int]:
    """Path -> line from 1 for every table, key and array element of a text that is valid TOML."""
    tree = Parser(Language(tree_sitter_toml.language())).parse(text.encode())
    found: dict[KeyPath, int] = {}
    arrays: dict[KeyPath, int] = {}
    for node in tree.root_node.named_children:
        if node.type == "pair":
            found.update(_pair((), node))
        elif node.type in _HEADERS:
            key, *rest = (child for child in node.named_children if child.type != "comment")
            here = _header(_key(key), arrays, is_array=node.type == "table_array_element")
            found.setdefault(here, _line(node))
            for child in rest:
                found.update(_pair(here, child))
    return found


def nearest(found: dict[KeyPath, int], path: KeyPath) -> int:
    """The line of the path, or of the nearest table around it; 0 if there is none."""
    while path and path not in found:
        path = path[:-1]
    return found.get(path, 0)


def _header(names: tuple[str, ...], arrays: dict[KeyPath, int], *, is_array: bool) -> KeyPath:
    """The full path of a header: each array of tables on the way means its last element so far."""
    path: KeyPath = ()
    for name in names[:-1]:
        path = (*path, name)
        if path in arrays:
            path = (*path, arrays[path])
    path = (*path, names[-1])
    if not is_array:
        return path
    arrays[path] = arrays.get(path, -1) + 1
    return (*path, arrays[path])


def _pair(around: KeyPath, pair: Node) -> Iterator[tuple[KeyPath, int]]:
    key, value = (child for child in pair.named_children if child.type != "comment")
    path = (*around, *_key(key))
    yield path, _line(pair)
    yield from _value(path, value)


def _value(path: KeyPath, value: Node) -> Iterator[tuple[KeyPath, int]]:
    children = [child for child in value.named_children if child.type != "comment"]
    if value.type == "inline_table":
        for pair in children:
            yield from _pair(path, pair)
    elif value.type == "array":
        for index, element in enumerate(children):
            yield (*path, index), _line(element)
            yield from _value((*path, index), element)


def _key(node: Node) -> tuple[str, ...]:
    """The names in a bare, quoted or dotted key, read by the parser that knows every escape."""
    level: object = tomllib.loads(f"{(node.text or b'').decode()} = 0")
    names: list[str] = []
    while table := as_table(level):
        ((name, level),) = table.items()
        names.append(name)
    return tuple(names)


def _line(node: Node) -> int:
    return node.start_point.row + 1
