"""The heatmaps of the Explore view: scores by filter, and which weights of a layer matter."""

from __future__ import annotations

import plotly.graph_objects as go
import streamlit as st

from fss_core import summaries
from fss_core.explore import Picture
from fss_core.figures.grids import (
    CLICK_CONFIG,
    MOST_CELLS,
    cell_of_point,
    headings_legend,
    score_heatmap,
    score_heatmap_alt,
)
from fss_core.figures.maps import threshold_heatmap, threshold_heatmap_alt
from fss_core.figures.style import SAVE_CONFIG
from fss_core.scores import KINDS
from fss_core.specs import CONTROL_FILTER, GLOBAL_LAYER, ScoreSpec
from pages.common import downloads, links
from pages.common.choices import FILTERS, KIND_TITLES, Choices
from pages.common.frame import is_dark
from pages.common.links import Param
from pages.common.reading import labelled

MAPS = {"scores": "Scores by filter", "weights": "Which weights matter"}
_MOST_ROWS = MOST_CELLS // (3 * len(FILTERS))
"""Of a heatmap that can be clicked; a larger network is shown part by part."""

PARAMS: dict[str, Param] = {
    "map": Param(default="scores", what="heatmap", known=lambda: MAPS),
    "map_filter": Param(default="pulse", what="filter of the heatmap", known=lambda: FILTERS),
    "map_kind": Param(default="adversarial", what="score of the heatmap", known=lambda: KINDS),
    "rows": Param(default=0, what="part of the rows", bounds=(0, 10_000)),
}
"""What the heatmaps add to an address."""


def draw(picture: Picture, version: tuple[object, ...], chosen: Choices) -> None:
    """Draw the heatmap that was chosen."""
    shown = st.segmented_control(
        "What the heatmap shows",
        list(MAPS),
        format_func=MAPS.__getitem__,
        key="map",
        on_change=links.tell,
        args=(PARAMS,),
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
        labelled(_picture, key, version, spec, simultaneous).all,
        rows,
        spec=spec,
        responses=[_picture.layers.responses, *beside],
        previewed=[name for name in _picture.previewed if name in rows],
    )
    return grid, score_heatmap(grid, dark=dark)


def _score_map(picture: Picture, version: tuple[object, ...], chosen: Choices) -> None:
    rows = _choose_rows(picture.rows)
    how = (chosen.score, chosen.simultaneous, is_dark())
    grid, figure = _draw_scores(picture, rows, chosen.request.key, version, *how)

    def choose_cell() -> None:
        points = st.session_state["heatmap"]["selection"]["points"]
        if points:
            layer, kind, name = cell_of_point((points[0]["x"], points[0]["y"]), grid)
            if picture.responses_of(layer) is not None:
                st.session_state.update(layer=layer, kind=kind, filter=name)

    st.plotly_chart(
        figure,
        key="heatmap",
        on_select=choose_cell,
        selection_mode="points",
        theme=None,
        width="stretch",
        config=CLICK_CONFIG,
        alt=score_heatmap_alt(grid),
    )
    st.html(
        f'<p class="fss-quiet"><b>F</b> fragile, <b>R</b> robust, <b>A</b> antifragile: decided. <b>f r a</b>, '
        f"hatched: leaning, the interval does not lie wholly on that side. · not measurable. Score beyond or within "
        f"±{chosen.score.tolerance:g}; {chosen.score.level:.0%} interval over images, this initialisation, "
        f"{'all together' if chosen.simultaneous else 'each by itself'}. {_preview_words(picture)}"
        f"{headings_legend(grid.filters)} Click a cell to look into it.</p>"
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
    figure = threshold_heatmap(found, dark=is_dark(), threshold_index=st.session_state.get("k"))
    st.plotly_chart(
        figure,
        key="weights_map",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=threshold_heatmap_alt(found),
    )
    st.html(
        '<p class="fss-quiet">Each cell is what filtering at that threshold does to accuracy; the average along a row '
        "is the score. Under the pulse filter, each cell is a group of weights: blue where the network is better "
        "without them, orange where it needs them.</p>"
    )
    downloads.figure_button(figure, "weights", "Which weights matter")
