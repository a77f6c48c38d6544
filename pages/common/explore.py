"""The Explore view: what it says where nothing is measured, or nothing can be read, and how its panels are laid out."""

from __future__ import annotations

import streamlit as st

from fss_core.explore import Picture, PictureScores, data_state, forget_damaged, version_of
from fss_core.jobs import service
from fss_core.jobs.plans import Plan
from fss_core.jobs.requests import MeasureRequest
from fss_core.specs import NETWORKS, BrokenExportError, FssError, StoreError
from fss_core.store import Store
from pages.common import downloads, drilldown, heatmaps, known, links, tiles
from pages.common.choices import Choices, known_datasets
from pages.common.frame import part, plain, shown_errors
from pages.common.links import Param
from pages.common.progress import estimate_words

PARAMS: dict[str, Param] = heatmaps.PARAMS | drilldown.PARAMS
"""What the Explore view adds to the side bar's parameters."""

WHAT_IT_IS = (
    "Take a trained network, set some of the weights of one layer to zero, and look at what is left of its accuracy, "
    "on clean images and on attacked ones. A layer whose loss hurts is **fragile**, one whose loss does nothing is "
    "**robust**, and one whose loss helps is **antifragile**."
)


def heading(request: MeasureRequest, form: str = "{network} on {dataset}, epoch {epoch}") -> None:
    """Say what is looked at, in a form of the view's own, so that a tab or a bookmark is not taken for another."""
    training = request.spec.training
    title = known_datasets().get(training.dataset, training.dataset)
    network = NETWORKS.get(training.network, training.network)
    subset = f", {training.subset}" if training.subset else ""
    title = form.format(network=plain(network), dataset=plain(title), epoch=request.spec.epoch)
    st.title(f"{title}{subset}", anchor=False)
    if problem := links.problem():
        left, right = st.columns([6, 1], vertical_alignment="center")
        left.warning(f"This link asks for what is not here: {plain(problem)}. What it does not say right is as usual.")
        right.button("Dismiss", key="dismiss", on_click=links.dismiss_problem)


# Without a picture ----------------------------------------------------------------------------------------


def nothing_measured(store: Store, request: MeasureRequest, plan: Plan | None, *, measuring: bool) -> None:
    """Show what the product is, what pressing **Measure** will do, and what is there already."""
    st.markdown(WHAT_IT_IS)
    if measuring:
        st.markdown(
            "The network is being prepared. The heatmap appears as soon as its layers are known, and fills row by row, "
            "with a first look where everything takes long: a colour for the score, a letter for the call."
        )
    elif plan is not None:
        st.markdown(
            f"Nothing is measured of this yet. **Measure**, in the side bar, trains what is missing, chooses the size "
            f"ε of the attack, attacks {request.spec.num_images} images, filters every layer at "
            f"{request.spec.response.num_thresholds} thresholds, and shows every layer as soon as it is finished. "
            f"{estimate_words(plan)}"
        )
        if request.spec.num_images > 100 or request.spec.response.num_thresholds > 13:
            st.button(
                "Take a quick look instead: 100 images, 9 thresholds, no control", key="quick", on_click=_ask_for_less
            )
    else:
        _say_why_not(request)
    known.list_measured(store)


def _say_why_not(request: MeasureRequest) -> None:
    """Say that there is nothing to look at, nor can be; what was measured needs its data set to be found again."""
    try:
        state = data_state(request)
    except FssError as error:
        st.info(plain(str(error)))
        return
    if state.state in ("missing", "broken"):
        st.info(
            f"{plain(state.detail)}\n\nNothing of this can be measured meanwhile. What was measured here is kept, and "
            "is shown again as soon as its data set is back; what is published or imported needs none."
        )
    else:
        st.info("Nothing is measured of this, and the side bar says why it cannot be.")


def _ask_for_less() -> None:
    st.session_state.update(images=100, thresholds=9, control=False)


def unreadable(store: Store, request: MeasureRequest, error: StoreError) -> None:
    """Show why stored results cannot be shown, and offer the remedy."""
    st.error(plain(str(error)))
    if isinstance(error, BrokenExportError):
        remedy(error)
        return
    st.markdown(
        "Everything that is sound stays. What is damaged, or was written by another version, can be measured again."
    )
    st.button("Forget what is damaged and measure it again", key="repair", on_click=_repair, args=(store, request))


def remedy(error: BrokenExportError) -> None:
    """Say what to do about a broken result from elsewhere."""
    st.markdown(_REMEDIES[error.origin])
    if error.origin == "imported":
        st.page_link("pages/runs.py", label="Runs, where it can be deleted")


_REMEDIES = {
    "imported": "It was imported. Delete it, and import a sound copy if there is one; or measure the same here, which "
    "goes before.",
    "published": "It was published with this version. `git checkout -- cache/published` brings the sound files back; "
    "or measure the same here, which goes before.",
}


def _repair(store: Store, request: MeasureRequest) -> None:
    with shown_errors():
        forget_damaged(store, request)
        service.ask(store, request)


# The picture ----------------------------------------------------------------------------------------------


def draw(store: Store, picture: Picture, version: tuple[object, ...], scores: PictureScores, chosen: Choices) -> None:
    """Draw everything of a picture, of which this is a version."""
    with st.container():  # what comes and goes in it moves nothing below
        tiles.draw(picture, scores)
    _look_into(store, picture, version, scores, chosen)
    downloads.draw(picture, scores)
    known.list_measured(store, expanded=False)


@st.fragment
def _look_into(
    store: Store, picture: Picture, version: tuple[object, ...], scores: PictureScores, chosen: Choices
) -> None:
    """Draw heatmap and drill-down; to look into another cell, nothing else of the page is drawn anew."""
    measured = [name for name in picture.rows if picture.responses_of(name) is not None]
    with part() as is_alone, st.container(key="explore_columns"):
        if is_alone and _is_other(store, chosen.request, version):
            st.rerun()
        left, right = st.columns([1, 1], gap="medium")
        with left:
            heatmaps.draw(picture, version, chosen)
        with right, st.container(key="drilldown"):
            if measured:
                drilldown.draw(store, picture, scores, chosen, measured)
            else:
                st.info("No layer is finished yet.")


def _is_other(store: Store, request: MeasureRequest, version: tuple[object, ...]) -> bool:
    """Say whether there is another version of a picture by now, or something to be said of it."""
    try:
        return version_of(store, request) != version
    except FssError:
        return True
