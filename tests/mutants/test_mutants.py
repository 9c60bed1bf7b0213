"""The planted bugs still fit the source, and those that are noticed soonest are noticed."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mutants.__main__ import DOCUMENT
from tests.mutants.catalogue import MUTANTS, QUICK, QUICK_IN_WORLDS
from tests.mutants.hunt import Verdict, healthy, hunt, in_worlds
from tests.mutants.mutant import Edit, Mutant, StaleMutantError, edited, plant, repeated_names
from tests.mutants.table import rows_of
from tests.mutants.tree import ROOT, copy_of_sources

BY_NAME = {mutant.name: mutant for mutant in MUTANTS}
QUICK_WORLDS = 24


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_a_planted_bug_fits_the_source(mutant: Mutant) -> None:
    texts: dict[str, str] = {}
    for edit in mutant.edits:
        texts[edit.file] = edited(mutant, edit, texts.get(edit.file) or (ROOT / edit.file).read_text())
    for file, text in texts.items():
        compile(text, file, "exec")
    assert (ROOT / mutant.catcher.partition("::")[0]).exists(), mutant.catcher


def test_a_bug_that_does_not_fit_is_told() -> None:
    for old in ("no such text", "def "):
        with pytest.raises(StaleMutantError):
            edited(Mutant("m", "", (), ""), Edit("f", old, "x"), "def a(): ...\ndef b(): ...\n")
    with pytest.raises(StaleMutantError):
        edited(Mutant("m", "", (), ""), Edit("f", "def a", "def a"), "def a(): ...\n")


def test_each_bug_has_its_own_name_and_its_row_in_the_table() -> None:
    assert repeated_names(MUTANTS) == []
    assert list(rows_of(DOCUMENT.read_text())) == [mutant.name for mutant in MUTANTS]


@pytest.mark.timeout(240)
def test_the_quickest_are_noticed_and_nothing_is_noticed_without_a_bug() -> None:
    verdicts: list[Verdict] = [hunt(BY_NAME[name]) for name in QUICK]
    assert [verdict.by_test.by.partition("::")[0] for verdict in verdicts] == [
        BY_NAME[n].catcher for n in QUICK
    ]
    with copy_of_sources() as tree:
        assert healthy(tree, verdicts, jobs=1) == []


@pytest.mark.timeout(240)
@pytest.mark.parametrize("name", QUICK_IN_WORLDS)
def test_worlds_notice_a_planted_bug(name: str) -> None:
    mutant = BY_NAME[name]
    assert mutant.aim is not None
    with copy_of_sources() as tree:
        plant(mutant, tree.root)
        tree.check_imports()
        found = in_worlds(tree, mutant.aim, QUICK_WORLDS)
    assert found.by, f"{mutant.says}: not noticed in {found.worlds} worlds"


def test_the_copy_is_what_runs_and_the_checkout_stays_as_it_is(tmp_path: Path) -> None:
    file = "node/holdfast_node/core/quorum.py"
    before = (ROOT / file).read_bytes()
    with copy_of_sources() as tree:
        (tree.root / file).write_text("raise SystemExit('this is the copy')\n")
        ran = tree.run(("-c", "import holdfast_node.core.quorum"))
        assert "this is the copy" in ran.output
        tree.check_imports()
    assert (ROOT / file).read_bytes() == before
    assert not tree.root.exists()
