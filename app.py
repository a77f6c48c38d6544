"""Explore: which layers of one network break, hold or improve when their weights are filtered away."""

from __future__ import annotations

import streamlit as st

from fss_core.explore import Picture, PictureScores, find_picture, score_picture, version_of
from fss_core.jobs.requests import MeasureRequest
from fss_core.specs import FssError, ScoreSpec, StoreError
from fss_core.store import Store
from pages.common import choices, explore, frame, links, progress, sidebar

PARAMS = choices.PARAMS | explore.PARAMS


@st.cache_resource(max_entries=8, show_spinner=False)
def read_picture(_store: Store, _request: MeasureRequest, key: str, version: tuple[object, ...]) -> Picture | None:
    """Read a picture once for all viewers, until there is more of it."""
    return find_picture(_store, _request)


@st.cache_resource(max_entries=32, show_spinner=False)
def read_scores(
    _picture: Picture, key: str, version: tuple[object, ...], spec: ScoreSpec, simultaneous: bool
) -> PictureScores:
    """Score a picture once for all viewers; looking into another cell of it needs no new scores."""
    return score_picture(_picture, spec, simultaneous=simultaneous)


def show(store: Store) -> None:
    """Draw the page for what is chosen."""
    sidebar.draw()
    try:
        chosen = choices.read_choices()
    except ValueError as error:
        sidebar.draw_scoring()
        st.title("Explore", anchor=False)
        st.error(frame.plain(str(error)))
        return
    request = chosen.request
    explore.heading(request)
    run = progress.find_run(store, request)
    plan = progress.offer(store, request, run)
    sidebar.draw_scoring()
    progress.strip(store, request, run, plan)
    try:
        version = version_of(store, request)
        picture = read_picture(store, request, request.key, version)
    except StoreError as error:
        explore.unreadable(store, request, str(error))
        return
    except (FssError, ValueError) as error:
        st.error(frame.plain(str(error)))
        return
    if picture is None:
        explore.nothing_measured(store, request, plan, measuring=progress.is_open(run))
        return
    try:
        scores = read_scores(picture, request.key, version, chosen.score, chosen.simultaneous)
    except ValueError as error:
        st.error(frame.plain(str(error)))
        return
    explore.draw(store, picture, scores, chosen)


store = frame.begin("Explore")
links.seed(PARAMS)
with frame.shown_errors():
    show(store)
links.write(PARAMS)
