"""`python -m tests.stories [--rewrite] [WORD...]`: plays the stories whose names contain a word, shows what differs.

With `--rewrite` their answers are written down as they are today. Then read the diff. Exit status 1 if one differs.
"""

from __future__ import annotations

import argparse
import difflib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.stories import cluster_stage, register_stage
from tests.stories.test_cluster_stories import STORIES as CLUSTER
from tests.stories.test_register_stories import STORIES as REGISTER

Perform = Callable[[str], str]


def _stories(words: list[str]) -> Iterator[tuple[Path, Perform]]:
    stages: tuple[tuple[list[Path], Perform], ...] = (
        (REGISTER, register_stage.perform),
        (CLUSTER, cluster_stage.perform),
    )
    for stories, perform in stages:
        for story in stories:
            if not words or any(word in story.stem for word in words):
                yield story, perform


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.stories", description=__doc__)
    parser.add_argument("words", nargs="*", help="only stories with one of these in their names")
    parser.add_argument("--rewrite", action="store_true", help="write the answers down as they are today")
    arguments = parser.parse_args()
    differ = 0
    for story, perform in _stories(arguments.words):
        written = story.read_text()
        played = perform(written)
        if played == written:
            continue
        if arguments.rewrite:
            story.write_text(played)
            print(f"rewritten: {story}")
            continue
        differ += 1
        lines = difflib.unified_diff(
            written.splitlines(), played.splitlines(), f"{story.name} written", "today", lineterm=""
        )
        print("\n".join(lines))
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
