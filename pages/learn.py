"""Learn: a lecture in ten minutes, offline; stories over the same components as the other views."""

from __future__ import annotations

from fss_core.store import Store
from fss_core.stories import list_stories
from pages.common import frame, learn, learn_live, learn_study, links

PARAMS = learn.PARAMS


def show(store: Store) -> None:
    """Draw the step that the address names."""
    stories, broken = list_stories()
    place = learn.find_place(stories)
    learn.heading(place, stories, broken)
    if place is None:
        return
    fields: dict[str, str] | None = None  # nothing to say where something is broken
    with learn.columns() as (left, right):
        with right, frame.shown_errors():
            draw = learn_live.draw if place.step.component.needs == "network" else learn_study.draw
            fields = draw(store, place)
        with left:
            learn.words(place, fields)


store = frame.begin("Learn", sidebar="collapsed", navigation=not learn.is_locked())
links.seed(PARAMS)
learn.style()
with frame.shown_errors():
    show(store)
links.write()
