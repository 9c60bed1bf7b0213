"""Some inputs for every parser with every run."""

from __future__ import annotations

import random
from contextlib import suppress
from typing import Final

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.parsers import Parser, all_parsers, check, input_of

PARSERS: Final = all_parsers()
MUTATED: Final = 150
EXAMPLES: Final = 20


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_only_values_and_typed_errors_come_out(parser: Parser) -> None:
    for data in parser.corpus:
        check(parser, data)
    chooser = random.Random(parser.name)
    for number in range(MUTATED):
        data = input_of(parser, chooser)
        try:
            check(parser, data)
        except Exception as error:
            raise AssertionError(f"{parser.name}, input {number}: {data.hex()}") from error


@pytest.mark.parametrize("parser", PARSERS, ids=lambda parser: parser.name)
def test_arbitrary_bytes_are_a_value_or_a_typed_error(parser: Parser) -> None:
    @settings(max_examples=EXAMPLES, deadline=None, database=None)
    @given(st.binary(max_size=300))
    def once(data: bytes) -> None:
        check(parser, data)

    once()


def test_most_inputs_get_past_magic_and_checksum() -> None:
    for name in ("volume header", "batch header", "record", "batch"):
        parser = next(parser for parser in PARSERS if parser.name == name)
        chooser, values = random.Random(1), 0
        for _ in range(200):
            with suppress(*parser.errors):
                values += parser.parse(input_of(parser, chooser)) is not None
        assert values > 60, name
