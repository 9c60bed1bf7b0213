"""Generates the Python stubs of the wire beside their .proto files, or says which of them are stale.

    .venv/bin/python proto/generate.py            # writes; `make proto`
    .venv/bin/python proto/generate.py --check    # compares, exit status 1 if any differs; part of `make check`

It knows how the generators are called and nothing of what the messages mean. The generators come from the lock, so
two machines write the same bytes.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PACKAGE = "holdfastpb"
SUFFIXES = ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py", "_pb2_grpc.pyi")


def proto_files() -> list[Path]:
    """Every .proto file, relative to the root that imports start from."""
    return sorted(path.relative_to(ROOT) for path in (ROOT / PACKAGE).rglob("*.proto"))


def generate(out: Path) -> dict[str, str]:
    """Runs the generators into `out`; returns relative path -> text of what they wrote.

    protoc's own typed stubs leave services untyped, hence the two plugins; they sit beside the interpreter.
    Services without a line in their file still get an empty `_pb2_grpc` module, which nobody needs: dropped.
    """
    protos = proto_files()
    if not protos:
        return {}
    bin_dir = Path(sys.executable).parent
    command = [
        sys.executable,
        "-m",
        "grpc_tools.protoc",
        f"--plugin=protoc-gen-mypy={bin_dir / 'protoc-gen-mypy'}",
        f"--plugin=protoc-gen-mypy_grpc={bin_dir / 'protoc-gen-mypy_grpc'}",
        f"--proto_path={ROOT}",
        f"--python_out={out}",
        f"--grpc_python_out={out}",
        f"--mypy_out=quiet:{out}",
        f"--mypy_grpc_out=quiet:{out}",
        *(str(path) for path in protos),
    ]
    if subprocess.run(command, check=False, cwd=ROOT).returncode != 0:
        sys.exit("proto/generate.py: the generator refused a .proto file; see above")
    written = {str(path.relative_to(out)): path.read_text() for path in out.rglob("*.py*")}
    return {name: text for name, text in written.items() if _is_wanted(name)}


def committed() -> dict[str, str]:
    """Relative path -> text of the generated files in the tree."""
    found = (path for path in (ROOT / PACKAGE).rglob("*") if path.name.endswith(SUFFIXES))
    return {str(path.relative_to(ROOT)): path.read_text() for path in found}


def stale(fresh: dict[str, str], old: dict[str, str]) -> list[str]:
    """Names of files that are missing, differ, or belong to no .proto file any more; sorted."""
    return sorted(name for name in fresh.keys() | old.keys() if fresh.get(name) != old.get(name))


def _is_wanted(name: str) -> bool:
    if not name.endswith(("_pb2_grpc.py", "_pb2_grpc.pyi")):
        return True
    stem = name.rsplit("_pb2_grpc", 1)[0]
    lines = (ROOT / f"{stem}.proto").read_text().splitlines()
    return any(line.startswith("service ") for line in lines)


def main(arguments: list[str] | None = None) -> int:
    """Writes or checks; returns the exit status."""
    parser = argparse.ArgumentParser(description="Generate the stubs of the wire.")
    parser.add_argument("--check", action="store_true", help="compare with the tree and write nothing")
    check: bool = parser.parse_args(arguments).check
    with tempfile.TemporaryDirectory() as out:
        fresh = generate(Path(out))
    names = stale(fresh, committed())
    if check:
        for name in names:
            print(f"proto/{name} does not match its .proto file: run `make proto` and commit the result")
        return 1 if names else 0
    for name in names:
        if name in fresh:
            (ROOT / name).write_text(fresh[name])
        else:
            (ROOT / name).unlink()
    print(f"{len(fresh)} generated files, {len(names)} changed")
    return 0


if __name__ == "__main__":
    sys.exit(main())
