"""`python -m tests.corpus --add NAME`: what this version writes, as a new generation. An old one is never rewritten."""

from __future__ import annotations

import argparse
import sys

from tests.corpus.making import add
from tests.corpus.reading import HERE

if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m tests.corpus", description=__doc__)
    parser.add_argument("--add", metavar="NAME", required=True, help="the new generation, for example v2")
    name = parser.parse_args().add
    try:
        add(HERE / name)
    except FileExistsError:
        sys.exit(f"{name} is there: what an earlier version wrote is not written again, take another name")
    print(f"tests/corpus/{name} is written: look at stores.json before you commit it")
