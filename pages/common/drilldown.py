"""The drill-down into one cell: its curves, its weights, and the images whose prediction changes."""

from __future__ import annotations

from collections.abc import Sequence

import streamlit as st

from fss_core import summaries
from fss_core.explore import Picture, PictureScores, probe_images
from fss_core.figures.curves import histogram_alt, histogram_figure, response_alt, response_figure
from fss_core.figures.images import images_alt, images_figure
from fss_core.figures.style import SAVE_CONFIG
from fss_core.scores import KINDS
from fss_core.specs import GLOBAL_LAYER, LARGEST_NUM_THRESHOLDS, FssError
from fss_core.store import Store
from pages.common import downloads
from pages.common.choices import FILTERS, KIND_TITLES, Choices
from pages.common.frame import escaped, is_dark, plain
from pages.common.links import Param

PARAMS: dict[str, Param] = {
    "layer": Param(default=None, what="layer"),
    "filter": Param(default="high_pass", what="filter", known=lambda: FILTERS),
    "kind": Param(default="adversarial", what="score", known=lambda: KINDS),
    "k": Param(default=None, what="threshold k", bounds=(0, LARGEST_NUM_THRESHOLDS)),
}
"""What the drill-down adds to an address."""


def draw(store: Store, picture: Picture, scores: PictureScores, chosen: Choices, measured: Sequence[str]) -> None:
    """Draw one cell in full."""
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
    figure = response_figure(curves, summaries.control_band(responses, layer), dark=is_dark(), threshold_index=k)
    st.plotly_chart(figure, key="curves", theme=None, width="stretch", config=SAVE_CONFIG, alt=response_alt(curves))
    facts = next(own.facts for own in responses.layers if own.facts.name == layer)
    removed = summaries.removed_weights(facts, responses.rows, name, k)
    histogram = histogram_figure(facts, removed, dark=is_dark())
    st.plotly_chart(
        histogram,
        key="histogram",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=histogram_alt(facts, removed),
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
    st.html(f'<p class="fss-quiet">{escaped(images_alt(changed))}</p>')
    if not changed.images:
        return
    try:
        images = probe_images(store, picture, [own.index for own in changed.images])
    except FssError as error:
        st.caption(plain(str(error)))
        return
    captions = [own.caption(images.class_names) for own in changed.images]
    figure = images_figure(images.clean, images.adversarial, captions, dark=is_dark())
    st.plotly_chart(
        figure,
        key="changed_images",
        theme=None,
        width="stretch",
        config={"displayModeBar": False},
        alt=images_alt(changed),
    )
    if images.adversarial is None:
        st.caption("Every filtered network was attacked anew, so there is no one attacked version of an image to show.")
    downloads.figure_button(figure, "images", f"Images changed by {layer}", "Save the images as HTML")
