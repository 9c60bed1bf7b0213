"""The documents speak of files that are there."""

from __future__ import annotations

import re
from itertools import chain
from pathlib import Path

ROOT = Path(__file__).parents[2]
PATHS = re.compile(r"`((?:tests|docs|node|client|proto|benchmarks)/[\w./*-]+)`|\]\(([\w./-]+\.\w+)\)")


def missing(text: str, folder: Path) -> list[str]:
    """Paths in backquotes are from the root (and may have wildcards), links are from the document's folder."""
    gone: list[str] = []
    for quoted, link in PATHS.findall(text):
        base, path = (ROOT, quoted) if quoted else (folder, link)
        if not any(base.glob(path)) if "*" in path else not (base / path).exists():
            gone.append(path)
    return gone


def test_every_path_in_the_documents_exists() -> None:
    documents = chain(ROOT.glob("*.md"), (ROOT / "docs").rglob("*.md"))
    gone = {
        str(document.relative_to(ROOT)): missing(document.read_text(), document.parent)
        for document in documents
    }
    assert not {name: paths for name, paths in gone.items() if paths}


def test_a_path_that_is_not_there_is_noticed() -> None:
    assert missing("see `tests/no/such_file.py` and [it](no-such.md), `tests/tidy/*.py`", ROOT) == [
        "tests/no/such_file.py",
        "no-such.md",
    ]
