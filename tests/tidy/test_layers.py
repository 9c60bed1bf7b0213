"""The contracts between packages bite: a planted import breaks the one it should."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
LINT = Path(sys.executable).with_name("lint-imports")
CORE, SERVICE, ADAPTER = (
    f"node/holdfast_node/{place}/planted.py" for place in ("core", "services", "adapters")
)

PLANTED = [
    ("layers", CORE, "import holdfast_node.services"),
    ("layers", SERVICE, "import holdfast_node.adapters"),
    ("layers", "node/holdfast_node/stray.py", ""),
    ("pure-core", CORE, "import asyncio"),
    ("pure-core", CORE, "import time"),
    ("plain-services", SERVICE, "import google.protobuf"),
    ("client-without-node", "client/holdfast/planted.py", "import holdfast_node"),
    ("node-without-client", ADAPTER, "import holdfast"),
    ("sdk-without-ctl", "client/holdfast/planted.py", "import holdfast_ctl"),
    ("independent-adapters", ADAPTER, "import holdfast_node.adapters.rocks"),
    ("wire-home", ADAPTER, "import holdfastpb.v1"),
    ("rocksdict-home", ADAPTER, "import rocksdict"),
    ("pyeclib-home", ADAPTER, "from pyeclib import ec_iface"),
    ("grpc-home", ADAPTER, "from grpc import aio"),
]


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the packages, to plant in."""
    copy = tmp_path_factory.mktemp("tree")
    for root in ("client", "node", "proto"):
        shutil.copytree(ROOT / root, copy / root, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    return copy


@pytest.mark.parametrize(("contract", "path", "text"), PLANTED)
def test_a_planted_import_breaks_its_contract(tree: Path, *, contract: str, path: str, text: str) -> None:
    planted = tree / path
    planted.write_text(f'"""Planted."""\n\n{text}\n')
    try:
        report = lint(tree, contract)
    finally:
        planted.unlink()
    assert "0 kept, 1 broken" in report
    assert planted.stem in report


def lint(tree: Path, contract: str) -> str:
    """The report on one contract, about the copy and not the installed packages."""
    roots = os.pathsep.join(str(tree / root) for root in ("client", "node", "proto"))
    command: list[str] = [str(LINT), "--no-cache", "--no-logo", "--contract", contract]
    environment = {**os.environ, "PYTHONPATH": roots}
    return subprocess.run(
        command, cwd=tree, env=environment, capture_output=True, check=False, text=True
    ).stdout
