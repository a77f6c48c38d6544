"""Epochs: whether layers stay fragile, robust or antifragile while a network is trained."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from fss_core.invariance.lookup import list_known, shared_epsilon
from fss_core.specs import FssError, StoreError
from fss_core.store import Store
from pages.common import agreement, choices, epochs, explore, frame, links, progress, sidebar

PARAMS = choices.PARAMS | epochs.PARAMS


def show(store: Store) -> None:
    """Draw the page for what is chosen."""
    epochs.follow_player()
    side = sidebar.draw("Epochs")
    if side is None:
        return
    chosen, place = side
    top = st.container()  # what comes and goes in it moves nothing below
    with top:
        explore.heading(chosen.request, "{network} on {dataset}, across epochs")
    known = list_known(store)
    spec = chosen.request.spec
    epsilon = shared_epsilon(store, spec, known)
    request = (
        chosen.request if epsilon.value is None else replace(chosen.request, spec=replace(spec, epsilon=epsilon.value))
    )
    run = progress.find_run(store, request)
    plan = progress.offer(store, request, run, place)
    with top:
        progress.strip(store, request, run, plan)
    comparison = epochs.comparison_of(spec)
    offered = epochs.offered_epochs(comparison, known)
    epochs.controls(offered)
    labels = [str(epoch) for epoch in sorted(st.session_state["epochs"]) or offered]
    comparison = epochs.comparison_of(spec, labels)
    try:
        candidates = agreement.read_candidates(store, comparison, known)
        there = [own.measured for own in candidates if own.measured is not None]
        if not there:
            epochs.nothing_measured(candidates)
            return
        kept = epochs.thinned(labels, len(there[0].names))
        if len(kept) < len(labels):
            st.caption(f"{len(kept)} of {len(labels)} epochs are shown, evenly spread; choose others above.")
            candidates = tuple(own for own in candidates if own.label in kept)
        kind, filter = st.session_state["score_kind"], st.session_state["score_filter"]
        found = agreement.compare(candidates, "epochs", chosen.score, filter, kind)
    except StoreError:
        raise
    except (FssError, ValueError) as error:
        st.error(frame.plain(str(error)))
        return
    epochs.draw(store, found, comparison, candidates, chosen, epsilon)


store = frame.begin("Epochs")
links.seed(PARAMS)
with frame.shown_errors():
    show(store)
links.write()
