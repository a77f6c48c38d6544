"""Explore: which layers of one network break, hold or improve when their weights are filtered away."""

from __future__ import annotations

from pages.common import frame

store = frame.begin("Explore")

# The rest is imported while the browser draws the frame: the first view of a server waits for it.
import streamlit as st

from fss_core.explore import version_of
from fss_core.specs import FssError, StoreError
from fss_core.store import Store
from pages.common import choices, explore, links, progress, reading, sidebar

PARAMS = choices.PARAMS | explore.PARAMS


def show(store: Store) -> None:
    """Draw the page for what is chosen."""
    side = sidebar.draw("Explore")
    if side is None:
        return
    chosen, place = side
    request = chosen.request
    with st.container():  # what comes and goes in it moves nothing below
        explore.heading(request)
        run = progress.find_run(store, request)
        plan = progress.offer(store, request, run, place)
        progress.strip(store, request, run, plan)
    try:
        version = version_of(store, request)
        picture = reading.read_picture(store, request, request.key, version)
    except StoreError as error:
        explore.unreadable(store, request, error)
        return
    except (FssError, ValueError) as error:
        st.error(frame.plain(str(error)))
        return
    if picture is None:
        explore.nothing_measured(
            store, request, plan, measuring=run is not None and run.key == request.key and progress.is_open(run)
        )
        return
    try:
        scores = reading.read_scores(picture, request.key, version, chosen)
    except ValueError as error:
        st.error(frame.plain(str(error)))
        return
    explore.draw(store, picture, version, scores, chosen)


links.seed(PARAMS)
with frame.shown_errors():
    show(store)
links.write()
