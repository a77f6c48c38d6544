"""Stories: lessons as data, and the numbers that their texts name.

A story is one small TOML file; those beside this module come with the package, a teacher's own lie in ``stories/`` in
the cache directory. ``components.py`` says what a step can show, ``reading.py`` checks a file (``lines.py`` finds the
line that is wrong), ``needs.py`` says what must be there before a step can be shown, ``fields.py`` and ``studied.py``
compute what texts say of what is shown.
"""

from __future__ import annotations

from fss_core.stories.components import COMPONENTS, Component, Parameter
from fss_core.stories.reading import BrokenStory, Step, Story, StoryError, list_stories, parse_story, read_story

__all__ = [
    "COMPONENTS",
    "BrokenStory",
    "Component",
    "Parameter",
    "Step",
    "Story",
    "StoryError",
    "list_stories",
    "parse_story",
    "read_story",
]
