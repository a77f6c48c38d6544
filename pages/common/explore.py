"""The panels of the Explore view: tiles, heatmaps, and the drill-down into one cell."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import plotly.graph_objects as go
import streamlit as st

from fss_core import figures, summaries
from fss_core.explore import (
    Picture,
    PictureScores,
    data_state,
    find_picture,
    forget_damaged,
    probe_images,
    score_picture,
)
from fss_core.jobs import service
from fss_core.jobs.plans import Plan
from fss_core.jobs.requests import MeasureRequest
from fss_core.scores import KINDS, Kind
from fss_core.specs import (
    CONTROL_FILTER,
    GLOBAL_LAYER,
    LARGEST_NUM_THRESHOLDS,
    NETWORKS,
    BrokenExportError,
    FssError,
    ScoreSpec,
    StoreError,
)
from fss_core.store import Store
from pages.common import downloads, known, links, tiles
from pages.common.choices import Choices, known_datasets
from pages.common.frame import escaped, is_dark, navigate, plain, shown_errors
from pages.common.links import Param
from pages.common.progress import estimate_words

FILTERS = {
    "high_pass": "High-pass",
    "low_pass": "Low-pass",
    "pulse": "Pulse",
    "mean": "Mean of the three",
    "random": "Random control",
}
KIND_TITLES: dict[Kind, str] = {"clean": "Clean", "adversarial": "Adversarial", "difference": "Difference"}
_MOST_ROWS = figures.MOST_CELLS // (3 * len(FILTERS))
"""Of a heatmap that can be clicked; a larger network is shown part by part."""

MAPS = {"scores": "Scores by filter", "weights": "Which weights matter"}

PARAMS: dict[str, Param] = {
    "map": Param(default="scores", what="heatmap", known=lambda: MAPS),
    "map_filter": Param(default="pulse", what="filter of the heatmap", known=lambda: FILTERS),
    "map_kind": Param(default="adversarial", what="score of the heatmap", known=lambda: KINDS),
    "layer": Param(default=None, what="layer"),
    "filter": Param(default="high_pass", what="filter", known=lambda: FILTERS),
    "kind": Param(default="adversarial", what="score", known=lambda: KINDS),
    "k": Param(default=None, what="threshold k", bounds=(0, LARGEST_NUM_THRESHOLDS)),
    "rows": Param(default=0, what="part of the rows", bounds=(0, 10_000)),
}
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


# Reading --------------------------------------------------------------------------------------------------


@st.cache_resource(max_entries=8, show_spinner=False)
def read_picture(_store: Store, _request: MeasureRequest, key: str, version: tuple[object, ...]) -> Picture | None:
    """Read a picture once for all viewers, until there is more of it."""
    return find_picture(_store, _request)


def read_scores(picture: Picture, key: str, version: tuple[object, ...], chosen: Choices) -> PictureScores:
    """Score a picture once for all viewers; another tolerance, or another cell to look into, computes nothing anew.

    Raises:
        ValueError: the settings do not fit the number of thresholds.
    """
    return _labelled(picture, key, version, chosen.score, chosen.simultaneous)


@st.cache_resource(max_entries=16, show_spinner=False)
def _labelled(
    _picture: Picture, key: str, version: tuple[object, ...], spec: ScoreSpec, simultaneous: bool
) -> PictureScores:
    untolerant = replace(spec, tolerance=0.0)
    return _scores(_picture, key, version, untolerant, simultaneous).relabel(spec.tolerance)


@st.cache_resource(max_entries=16, show_spinner=False)
def _scores(
    _picture: Picture, key: str, version: tuple[object, ...], spec: ScoreSpec, simultaneous: bool
) -> PictureScores:
    return score_picture(_picture, spec, simultaneous=simultaneous)


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
    with shown_errors(), st.container(key="explore_columns"):
        left, right = st.columns([1, 1], gap="medium")
        with left:
            _heatmaps(picture, version, chosen)
        with right, st.container(key="drilldown"):
            if measured:
                drilldown(store, picture, scores, chosen, measured)
            else:
                st.info("No layer is finished yet.")
    links.write()
    navigate()


def _heatmaps(picture: Picture, version: tuple[object, ...], chosen: Choices) -> None:
    shown = st.segmented_control(
        "What the heatmap shows",
        list(MAPS),
        format_func=MAPS.__getitem__,
        key="map",
        required=True,
        label_visibility="collapsed",
    )
    if shown == "weights":
        _weights_map(picture, chosen)
    else:
        _score_map(picture, version, chosen)


@st.cache_resource(max_entries=8, show_spinner=False)
def _draw_scores(
    _picture: Picture,
    rows: tuple[str, ...],
    key: str,
    version: tuple[object, ...],
    spec: ScoreSpec,
    simultaneous: bool,
    dark: bool,
) -> tuple[summaries.ScoreGrid, go.Figure]:
    """Draw the scores once for all viewers: to look into another cell, nothing of this is another."""
    beside = [_picture.whole.responses] if _picture.whole is not None else []
    beside += [_picture.preview] if _picture.preview is not None else []
    grid = summaries.score_grid(
        _labelled(_picture, key, version, spec, simultaneous).all,
        rows,
        spec=spec,
        responses=[_picture.layers.responses, *beside],
        previewed=[name for name in _picture.previewed if name in rows],
    )
    return grid, figures.score_heatmap(grid, dark=dark)


def _score_map(picture: Picture, version: tuple[object, ...], chosen: Choices) -> None:
    rows = _choose_rows(picture.rows)
    how = (chosen.score, chosen.simultaneous, is_dark())
    grid, figure = _draw_scores(picture, rows, chosen.request.key, version, *how)

    def choose_cell() -> None:
        points = st.session_state["heatmap"]["selection"]["points"]
        if points:
            layer, kind, name = figures.cell_of_point((points[0]["x"], points[0]["y"]), grid)
            if picture.responses_of(layer) is not None:
                st.session_state.update(layer=layer, kind=kind, filter=name)

    st.plotly_chart(
        figure,
        key="heatmap",
        on_select=choose_cell,
        selection_mode="points",
        theme=None,
        width="stretch",
        config=figures.CLICK_CONFIG,
        alt=figures.score_heatmap_alt(grid),
    )
    st.html(
        f'<p class="fss-quiet"><b>F</b> fragile, <b>R</b> robust, <b>A</b> antifragile: decided. <b>f r a</b>, '
        f"hatched: leaning, the interval does not lie wholly on that side. · not measurable. Score beyond or within "
        f"±{chosen.score.tolerance:g}; {chosen.score.level:.0%} interval over images, this initialisation, "
        f"{'all together' if chosen.simultaneous else 'each by itself'}. {_preview_words(picture)}"
        f"{figures.headings_legend(grid.filters)} Click a cell to look into it.</p>"
    )
    downloads.figure_button(figure, "scores", "Filtering scores")


def _choose_rows(rows: tuple[str, ...]) -> tuple[str, ...]:
    """Let a part of the rows be chosen, where there are more than can be clicked."""
    parts = [rows[start : start + _MOST_ROWS] for start in range(0, len(rows), _MOST_ROWS)]
    if len(parts) <= 1:
        return rows
    st.session_state["rows"] = min(st.session_state["rows"], len(parts) - 1)
    part = st.selectbox(
        "Rows",
        range(len(parts)),
        format_func=lambda index: (
            f"{index * _MOST_ROWS + 1} to {index * _MOST_ROWS + len(parts[index])} of {len(rows)}"
        ),
        key="rows",
    )
    return parts[part]


def _preview_words(picture: Picture) -> str:
    """Say what a first look is, where there is one."""
    own = picture.preview
    if own is None:
        return ""
    return (
        f"<b>Names in italics: a first look</b>, n = {own.num_images} images at {own.spec.num_thresholds} thresholds, "
        f"until n = {picture.layers.spec.num_images} at {picture.layers.spec.response.num_thresholds} are measured. "
    )


def _weights_map(picture: Picture, chosen: Choices) -> None:
    left, right = st.columns(2)
    name = left.selectbox(
        "Filter",
        [own for own in FILTERS if own != CONTROL_FILTER],
        format_func=FILTERS.__getitem__,
        key="map_filter",
    )
    kind = right.selectbox("Score", list(KINDS), format_func=KIND_TITLES.__getitem__, key="map_kind")
    layers = [own for own in picture.rows if own != GLOBAL_LAYER]
    found = summaries.threshold_map(picture.layers.responses, name, kind, chosen.score, layers)
    figure = figures.threshold_heatmap(found, dark=is_dark(), threshold_index=st.session_state.get("k"))
    st.plotly_chart(
        figure,
        key="weights_map",
        theme=None,
        width="stretch",
        config=figures.SAVE_CONFIG,
        alt=figures.threshold_heatmap_alt(found),
    )
    st.html(
        '<p class="fss-quiet">Each cell is what filtering at that threshold does to accuracy; the average along a row '
        "is the score. Under the pulse filter, each cell is a group of weights: blue where the network is better "
        "without them, orange where it needs them.</p>"
    )
    downloads.figure_button(figure, "weights", "Which weights matter")


# The drill-down -------------------------------------------------------------------------------------------


def drilldown(store: Store, picture: Picture, scores: PictureScores, chosen: Choices, measured: Sequence[str]) -> None:
    """Draw one cell in full: its curves, its weights, and the images whose prediction changes."""
    asked = st.session_state.get("layer", measured[0])
    if asked not in measured:
        why = "is not measured yet" if asked in picture.rows else "does not exist here"
        st.caption(f"Layer {plain(str(asked))} {why}; another is shown.")
        st.session_state["layer"] = measured[0]
    one, two, three = st.columns([3, 2, 2])
    layer = one.selectbox("Layer", measured, key="layer", format_func=_short)
    responses = picture.responses_of(layer)
    assert responses is not None
    have = {row.filter for row in responses.rows}
    filters = [name for name in FILTERS if name in have or name == "mean"]
    if st.session_state["filter"] not in filters:
        st.session_state["filter"] = filters[0]
    name = two.selectbox("Filter", filters, key="filter", format_func=FILTERS.__getitem__)
    three.selectbox("Score", list(KINDS), key="kind", format_func=KIND_TITLES.__getitem__)
    _cell_words(picture, scores, chosen, layer, name)
    last = responses.spec.num_thresholds - 1
    if not 0 <= st.session_state.get("k", -1) <= last:
        st.session_state["k"] = last // 2
    k = st.slider("Threshold, from the smallest weight (0) to the largest", 0, last, key="k")
    curves = summaries.response_curves(responses, layer, name, chosen.score)
    figure = figures.response_figure(
        curves, summaries.control_band(responses, layer), dark=is_dark(), threshold_index=k
    )
    st.plotly_chart(
        figure, key="curves", theme=None, width="stretch", config=figures.SAVE_CONFIG, alt=figures.response_alt(curves)
    )
    facts = next(own.facts for own in responses.layers if own.facts.name == layer)
    removed = summaries.removed_weights(facts, responses.rows, name, k)
    histogram = figures.histogram_figure(facts, removed, dark=is_dark())
    st.plotly_chart(
        histogram,
        key="histogram",
        theme=None,
        width="stretch",
        config=figures.SAVE_CONFIG,
        alt=figures.histogram_alt(facts, removed),
    )
    with st.container(horizontal=True, gap="small"):
        downloads.figure_button(figure, "curves", f"Response of {layer}", "Save the curves as HTML")
        downloads.figure_button(histogram, "histogram", f"Weights of {layer}", "Save the histogram as HTML")
    _changed(store, picture, layer, name, k)


def _short(name: str) -> str:
    return "Whole network" if name == GLOBAL_LAYER else name


def _cell_words(picture: Picture, scores: PictureScores, chosen: Choices, layer: str, name: str) -> None:
    """Say what the chosen cell says, for those who do not hover."""
    responses = picture.responses_of(layer)
    assert responses is not None
    grid = summaries.score_grid(
        scores.all,
        [layer],
        spec=chosen.score,
        responses=[responses],
        filters=[name],
        previewed=picture.previewed,
    )
    column = KINDS.index(st.session_state["kind"])
    st.html(f'<p class="fss-quiet"><b>{grid.letters[0][column]}</b> {grid.text(0, column)}</p>')


def _changed(store: Store, picture: Picture, layer: str, name: str, k: int) -> None:
    responses = picture.responses_of(layer)
    assert responses is not None
    st.markdown("### Images whose prediction changes there")
    changed = summaries.changed_images(responses, layer, name, k, limit=8)
    st.html(f'<p class="fss-quiet">{escaped(figures.images_alt(changed))}</p>')
    if not changed.images:
        return
    try:
        images = probe_images(store, picture, [own.index for own in changed.images])
    except FssError as error:
        st.caption(plain(str(error)))
        return
    captions = [own.caption(images.class_names) for own in changed.images]
    figure = figures.images_figure(images.clean, images.adversarial, captions, dark=is_dark())
    st.plotly_chart(
        figure,
        key="changed_images",
        theme=None,
        width="stretch",
        config={"displayModeBar": False},
        alt=figures.images_alt(changed),
    )
    if images.adversarial is None:
        st.caption("Every filtered network was attacked anew, so there is no one attacked version of an image to show.")
    downloads.figure_button(figure, "images", f"Images changed by {layer}", "Save the images as HTML")
