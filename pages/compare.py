"""Compare: what stays the same from data set to data set, from network to network, from view to view."""

from __future__ import annotations

import streamlit as st

from fss_core.invariance.lookup import ComparisonSpec, list_known
from fss_core.specs import FssError, StoreError
from fss_core.store import Store
from pages.common import agreement, choices, compare, explore, frame, links, progress, sidebar

PARAMS = choices.PARAMS | compare.PARAMS
HEADINGS = {
    "datasets": "{network} across data sets, epoch {epoch}",
    "networks": "Networks on {dataset}, epoch {epoch}",
    "pinned": "{network} on {dataset}, epoch {epoch}, beside another",
}


def show(store: Store) -> None:
    """Draw the page for what is chosen."""
    side = sidebar.draw("Compare")
    if side is None:
        return
    chosen, place = side
    explore.heading(chosen.request, HEADINGS[st.session_state["across"]])
    request = chosen.request
    run = progress.find_run(store, request)
    plan = progress.offer(store, request, run, place)
    progress.strip(store, request, run, plan)
    known = list_known(store)
    way = compare.way_control(request.spec)
    try:
        if way == "pinned":
            pinned = compare.pinned_spec()
            if pinned is None:
                compare.nothing_pinned()
                return
            compare.controls("epochs", None)
            across, candidates = agreement.read_pair(store, pinned, request.spec, known)
            comparison = ComparisonSpec(across=across, measurement=request.spec)
        else:
            across = "networks" if way == "networks" else "datasets"
            comparison = ComparisonSpec(across=across, measurement=request.spec)
            offer = compare.offer_of(comparison, known)
            compare.controls(across, offer)
            comparison = ComparisonSpec(
                across=across, measurement=request.spec, labels=compare.labels_of(comparison, offer)
            )
            candidates = agreement.read_candidates(store, comparison, known)
        if not any(one.measured for one in candidates):
            compare.nothing_measured(candidates)
            return
        kind, filter = st.session_state["score_kind"], st.session_state["score_filter"]
        found = agreement.compare(candidates, across, chosen.score, filter, kind)
        tables = agreement.tabulate(candidates, across, chosen.score, kind)
    except StoreError:
        raise
    except (FssError, ValueError) as error:
        st.error(frame.plain(str(error)))
        return
    compare.draw(found, tables, comparison, candidates)


store = frame.begin("Compare")
links.seed(PARAMS)
with frame.shown_errors():
    show(store)
links.write()
