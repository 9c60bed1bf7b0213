"""A private copy of the sources in which something may be broken, and running things in it.

Programs run by the interpreter that runs this one, but import the copy and nothing of the checkout; `check_imports`
proves it. Refuses to know what is run and what its result means.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[2]
FOLDERS: Final = ("client", "node", "proto", "tests")
FILES: Final = ("pyproject.toml", "cluster.example.toml")
TIMEOUT_S: Final = 900.0
"""For one program; a bug that makes a test hang is noticed before that by the test's own limit."""

_WHERE: Final = (
    "import holdfast, holdfast_ctl, holdfast_node.core, holdfastpb, tests.mutants as here;"
    "print(*(m.__file__ for m in (holdfast, holdfast_ctl, holdfast_node.core, holdfastpb, here)), sep='\\n')"
)


@dataclass(frozen=True, slots=True)
class Ran:
    """`status` None: it did not end in time."""

    status: int | None
    output: str


@dataclass(frozen=True, slots=True)
class Tree:
    root: Path

    def run(self, arguments: Sequence[str], *, timeout_s: float = TIMEOUT_S) -> Ran:
        """`python arguments` in the copy. What it started goes with it."""
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=self.root,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            return Ran(None, output)
        return Ran(process.returncode, output)

    def check_imports(self) -> None:
        """The copy is what is imported, not the checkout this interpreter has installed."""
        where = self.run(("-c", _WHERE))
        files = where.output.split()
        wrong = [file for file in files if not Path(file).is_relative_to(self.root)]
        if where.status != 0 or len(files) != 5 or wrong:
            raise AssertionError(f"not the copy at {self.root} was imported:\n{where.output}")

    def _environment(self) -> dict[str, str]:
        """Nothing compiled is kept: a change of the same length within a second would not be seen."""
        roots = [str(self.root / folder) for folder in ("client", "node", "proto")]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
        environment |= {
            "PYTHONPATH": os.pathsep.join([*roots, str(self.root)]),
            "PYTHONDONTWRITEBYTECODE": "1",
        }
        return environment


@contextmanager
def copy_of_sources() -> Generator[Tree]:
    """Gone when the context ends."""
    with tempfile.TemporaryDirectory(prefix="holdfast-mutant-") as directory:
        root = Path(directory).resolve()
        for folder in FOLDERS:
            shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
        for file in FILES:
            shutil.copyfile(ROOT / file, root / file)
        yield Tree(root)
