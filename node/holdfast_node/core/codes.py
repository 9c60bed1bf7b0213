"""The codes that blobs are stored with, and which of a stripe's n cells give which others back.

Arithmetic on indexes alone: no cell is ever seen here. What is said of which losses a code survives was tried with the
coder for every pattern of every code offered (`tests/properties/test_codec.py`, ADR 0091).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from functools import cache
from typing import Final, Literal

from holdfast_node.core.errors import InvalidArgument

DATA_CELLS_MAX: Final = 10
PARITY_CELLS_MAX: Final = 6
GROUPS_MAX: Final = 3
GLOBAL_CELLS_MAX: Final = 2
"""With three parities over everything, the coder cannot mend some losses of the widest codes that three could mend."""

OFFERED: Final = (
    f"rs:K+M with K up to {DATA_CELLS_MAX} and M up to {PARITY_CELLS_MAX}, such as rs:4+2; or lrc:K+M/L with L "
    f"groups of equal size, {GROUPS_MAX} at most, and M - L at most {GLOBAL_CELLS_MAX}, such as lrc:8+4/2"
)


@dataclass(frozen=True, slots=True)
class Code:
    """`rs:K+M`: any k of n = k + m cells give the stripe back. `copy:N`: every cell is the whole stripe.

    `lrc:K+M/L`, a local reconstruction code (Huang et al., "Erasure Coding in Windows Azure Storage", ATC 2012): the
    data cells lie in L groups of one size, each with a parity of its own, so that a lost cell is made from its group
    alone; the other m - L parities are over all data. Cells in order: data, global parities, local parities.
    """

    kind: Literal["rs", "copy", "lrc"]
    k: int
    m: int
    groups: int = 0
    """Of an `lrc`, else 0."""

    @property
    def n(self) -> int:
        return self.k + self.m

    @property
    def losses_survived(self) -> int:
        """Any so many cells may be lost. An `lrc` survives many larger losses as well: `decodes` tells which."""
        return self.m - self.groups + 1 if self.groups else self.m

    def __str__(self) -> str:
        if self.kind == "copy":
            return f"copy:{self.n}"
        return f"{self.kind}:{self.k}+{self.m}" + (f"/{self.groups}" if self.groups else "")

    def group_of(self, index: int) -> frozenset[int]:
        """The cells besides this one that it can be made from when they are all there. Empty where there is no group:
        then any k others do."""
        for group in _groups(self):
            if index in group:
                return group - {index}
        return frozenset()

    def decodes(self, held: Collection[int]) -> bool:
        """Whether these cells, each named once, give the whole stripe back.

        Each group mends one loss of its own; what is lost beyond that takes one global parity each.
        """
        if not self.groups:
            return len(held) >= self.k
        lost = frozenset(range(self.n)).difference(held)
        in_groups = [len(lost & group) for group in _groups(self)]
        beyond = sum(max(0, count - 1) for count in in_groups)
        return beyond + len(lost) - sum(in_groups) <= self.m - self.groups

    def gives(self, held: Collection[int], wanted: Iterable[int]) -> bool:
        """Whether every wanted cell is among those held or can be made from them."""
        missing = [index for index in wanted if index not in held]
        if not missing or self.decodes(held):
            return True
        return all((group := self.group_of(index)) and group.issubset(held) for index in missing)

    def helpers(self, wanted: Collection[int]) -> list[int]:
        """All other cells, those first that make a wanted one with the fewest reads."""
        near = {each for index in wanted for each in self.group_of(index)}
        return sorted(
            (index for index in range(self.n) if index not in wanted), key=lambda i: (i not in near, i)
        )


@cache
def _groups(code: Code) -> tuple[frozenset[int], ...]:
    if not code.groups:
        return ()
    size, first_local = code.k // code.groups, code.n - code.groups
    return tuple(
        frozenset((*range(at * size, (at + 1) * size), first_local + at)) for at in range(code.groups)
    )


def parity_proofs(code: Code) -> list[tuple[list[int], list[int]]]:
    """Pairs of cells and the data cells they must give: together they use every parity, so that a wrong one cannot
    hide behind the others."""
    if not code.groups:
        spans = [range(first, min(first + code.k, code.n)) for first in range(code.k, code.n, code.k)]
        return [([*range(len(span), code.k), *span], list(range(len(span)))) for span in spans]
    proofs = [(sorted(code.group_of(min(group))), [min(group)]) for group in _groups(code)]
    first = sorted(_groups(code)[0])
    lost = [*first[: code.m - code.groups], first[-1]]
    return [*proofs, ([index for index in range(code.n) if index not in lost], lost[:-1])]


def parse_code(text: str) -> Code:
    """The code a pool or manifest names. Raises `InvalidArgument`, saying what is offered."""
    kind, _, numbers = text.partition(":")
    parse = {"rs": _parse_rs, "lrc": _parse_lrc, "copy": _parse_copy}.get(kind)
    code = parse(numbers) if parse is not None else None
    if code is None or str(code) != text:
        raise InvalidArgument(f"unknown code {text!r}", hint=OFFERED)
    return code


def _parse_copy(numbers: str) -> Code | None:
    count = _number(numbers)
    if not 1 <= count <= DATA_CELLS_MAX + PARITY_CELLS_MAX:
        return None
    return Code("copy", 1, count - 1)


def _parse_rs(numbers: str) -> Code | None:
    k_text, plus, m_text = numbers.partition("+")
    k, m = _number(k_text), _number(m_text)
    if not plus or not 1 <= k <= DATA_CELLS_MAX or not 0 <= m <= PARITY_CELLS_MAX:
        return None
    return Code("rs", k, m)


def _parse_lrc(numbers: str) -> Code | None:
    counts, _, groups_text = numbers.partition("/")
    plain, groups = _parse_rs(counts), _number(groups_text)
    if plain is None or not 2 <= groups <= GROUPS_MAX or plain.k % groups or plain.k == groups:
        return None
    if not 1 <= plain.m - groups <= GLOBAL_CELLS_MAX:
        return None
    return Code("lrc", plain.k, plain.m, groups)


def _number(text: str) -> int:
    return int(text) if text.isascii() and text.isdigit() and len(text) <= 3 else -1


def tiny_code(code: Code) -> Code:
    """The code that blobs too small to be worth coding use in a pool of `code`."""
    return Code("copy", 1, code.n - 1)
