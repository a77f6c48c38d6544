"""Retrain: what it buys to retrain only some layers, rule against rule, from one checkpoint at one budget."""

from __future__ import annotations

import streamlit as st

from fss_core.jobs.retraining_plans import RetrainRequest
from fss_core.retraining.comparing import Comparison
from fss_core.retraining.pictures import RetrainPicture, compare_checkpoints, find_picture
from fss_core.specs import FssError, StoreError
from fss_core.store import Store
from pages.common import choices, explore, frame, links, progress, retrain, retrain_choices, sidebar

PARAMS = choices.PARAMS | retrain_choices.PARAMS


@st.cache_resource(max_entries=8, show_spinner=False)
def read_picture(_store: Store, _request: RetrainRequest, key: str, version: object) -> RetrainPicture | None:
    """Read a picture once for all viewers, until there is more of it."""
    return find_picture(_store, _request.spec, _request.seeds)


@st.cache_resource(max_entries=8, show_spinner=False)
def read_checkpoints(_store: Store, _request: RetrainRequest, key: str, version: object) -> tuple[Comparison, ...]:
    """Read what came of the same retraining from other epochs, until there is more of it."""
    return compare_checkpoints(_store, _request.spec, _request.seeds)


def show(store: Store) -> None:
    """Draw the page for what is chosen."""
    side = sidebar.draw("Retrain")
    if side is None:
        return
    chosen, place = side
    explore.heading(chosen.request, "{network} on {dataset}, retrained from epoch {epoch}")
    retrain_choices.draw()
    request = retrain_choices.read_request(chosen)
    run = progress.find_run(store, request)
    plan = progress.offer(store, request, run, place, retrain.VERB)
    progress.strip(store, request, run, plan, retrain.VERB, retrain.version_of)
    try:
        version = retrain.version_of(store, request)
        picture = read_picture(store, request, request.key, version)
        if picture is None:
            retrain.nothing_there(request, plan, working=progress.is_open(run))
            return
        across = read_checkpoints(store, request, request.key, version)
    except StoreError as error:
        retrain.unreadable(store, request, error)
        return
    except (FssError, ValueError) as error:
        st.error(frame.plain(str(error)))
        return
    retrain.draw(picture, across, working=progress.is_open(run))


store = frame.begin("Retrain")
links.seed(PARAMS)
with frame.shown_errors():
    show(store)
links.write()
