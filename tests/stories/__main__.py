"""Writes the answers of all stories down as they are today: `python -m tests.stories`. Then read the diff."""

from __future__ import annotations

from tests.stories.register_stage import perform
from tests.stories.test_register_stories import STORIES

for story in STORIES:
    text = story.read_text()
    played = perform(text)
    if played != text:
        story.write_text(played)
        print(f"rewritten: {story}")
