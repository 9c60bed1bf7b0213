"""The register's stories end as they are written down. `python -m tests.stories --rewrite` writes them down anew."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.stories.register_stage import perform

STORIES = sorted((Path(__file__).parent / "register").glob("*.txt"))


@pytest.mark.parametrize("story", STORIES, ids=lambda story: story.stem)
def test_the_story_goes_as_written(story: Path) -> None:
    text = story.read_text()
    assert perform(text) == text, (
        "if the change is meant: python -m tests.stories --rewrite, then read the diff"
    )


def test_there_are_stories() -> None:
    assert len(STORIES) >= 6
