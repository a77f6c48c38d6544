"""The panels of the Epochs view: heatmap, drill-down, trajectories, rankings, and all layers epoch by epoch."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace

import streamlit as st

from fss_core.checkpoints import available_epochs
from fss_core.explore import version_of
from fss_core.figures.grids import MOST_CELLS
from fss_core.figures.style import SAVE_CONFIG
from fss_core.figures.trajectories import (
    MOST_TRAJECTORIES,
    profile_alt,
    profile_figure,
    trajectories_alt,
    trajectories_figure,
)
from fss_core.invariance import Invariance
from fss_core.invariance.grids import GridColumn, cell_words, epochs_grid
from fss_core.invariance.groups import rows_that_move
from fss_core.invariance.lookup import Candidate, ComparisonSpec, Known, SharedEpsilon, epsilon_caution, known_labels
from fss_core.specs import LARGEST_EPOCH, FssError, MeasurementSpec
from fss_core.store import Store
from pages.common import agreement, downloads, drilldown, reading
from pages.common.choices import Choices
from pages.common.frame import is_dark, part, plain
from pages.common.links import Param

WHAT_IT_IS = (
    "Do the layers that are fragile, robust or antifragile early in training stay so? This view puts the epochs of one "
    "network on one data set side by side, all attacked with **one ε**: the one calibrated on the last of them."
)
_TICK_SECONDS, _FORGOTTEN_SECONDS = 1.2, 5.0
"""Between two epochs while they play; and how long after the last of them nobody is watching any more."""


class _Epochs(Param):
    """Epochs, with commas in the address."""

    def parse(self, text: str) -> list[int]:  # type: ignore[override]
        try:
            found = sorted({int(part) for part in text.split(",") if part})
        except ValueError:
            raise ValueError(f"{self.what} must be whole numbers with commas, got {text[:40]!r}") from None
        if any(not 0 <= epoch <= LARGEST_EPOCH for epoch in found):
            raise ValueError(f"{self.what} must lie from 0 to {LARGEST_EPOCH}, got {text[:40]!r}")
        return found

    def write(self, value: object) -> str:
        return ",".join(map(str, value))  # type: ignore[call-overload]


class _Layers(Param):
    """Names of layers, with commas in the address."""

    def parse(self, text: str) -> list[str]:  # type: ignore[override]
        return list(dict.fromkeys(name[:200] for name in text.split(",") if name))[:MOST_TRAJECTORIES]

    def write(self, value: object) -> str:
        return ",".join(value)  # type: ignore[arg-type]


PARAMS: dict[str, Param] = {
    **agreement.PARAMS,
    **drilldown.PARAMS,
    "epochs": _Epochs(default=[], what="epochs"),  # type: ignore[arg-type]
    "layers": _Layers(default=[], what="layers"),  # type: ignore[arg-type]
}
"""What the Epochs view adds to the side bar's parameters; the epoch that is looked into is the side bar's."""


# What is compared -----------------------------------------------------------------------------------------


def offered_epochs(comparison: ComparisonSpec, found: Sequence[Known]) -> list[int]:
    """List the epochs that can be put side by side: measured, trained, or named in the side bar."""
    own = comparison.measurement
    epochs = {int(label) for label in known_labels(comparison, found)} | {own.epoch, *st.session_state["epochs"]}
    try:
        epochs |= set(available_epochs(own.training))
    except FssError:
        pass  # not a data set of this machine: results from elsewhere are there all the same
    return sorted(epochs)


def controls(offered: Sequence[int]) -> None:
    """Draw which score is shown, of which epochs."""
    with st.container(key="epochs_controls", horizontal=True, vertical_alignment="bottom"):
        agreement.score_boxes(_follow)
        st.multiselect(
            "Epochs", offered, key="epochs", placeholder="All that are measured or trained", width=agreement.LIST_WIDTH
        )


def _follow() -> None:
    """Let the drill-down show the score that was chosen for the heatmap."""
    st.session_state.update(kind=st.session_state["score_kind"], filter=st.session_state["score_filter"])


def thinned(labels: Sequence[str], num_layers: int) -> tuple[str, ...]:
    """Leave so many epochs, evenly, that the heatmap stays quick."""
    most = max(MOST_CELLS // max(num_layers, 1), 2)
    if len(labels) <= most:
        return tuple(labels)
    step = (len(labels) - 1) / (most - 1)
    return tuple(labels[round(step * index)] for index in range(most))


# The panels -----------------------------------------------------------------------------------------------


def nothing_measured(candidates: Sequence[Candidate]) -> None:
    """Say what the view is, and what brings its first epoch."""
    st.markdown(WHAT_IT_IS)
    st.info(
        "No epoch is measured with the settings of the side bar. **Measure**, there, brings the epoch named there. "
        "Begin with the last: its ε serves all."
    )
    agreement.missing(candidates, expanded=True)


def draw(
    store: Store,
    found: Invariance,
    comparison: ComparisonSpec,
    candidates: Sequence[Candidate],
    chosen: Choices,
    epsilon: SharedEpsilon,
) -> None:
    """Draw everything."""
    with st.container():  # what comes and goes in it moves nothing below
        agreement.tiles(found, candidates)
        there = [int(own.label) for own in candidates if own.measured is not None]
        if caution := epsilon_caution(epsilon, comparison.measurement, there):
            st.warning(f"Caution: {plain(caution)}.")
        agreement.missing(candidates)
    with st.container(key="explore_columns"):
        left, right = st.columns([1, 1], gap="medium")
        with left:
            _heatmap(found, candidates)
        with right, st.container(key="drilldown"):
            _look_into(store, found, candidates, chosen)
    with st.container(key="epochs_below"):
        left, right = st.columns([1, 1], gap="medium")
        with left:
            _trajectories(found)
        with right:
            st.header("Do epochs rank the layers alike?", anchor=False)
            agreement.matrix(found, candidates)
    player(found)
    agreement.groups(found)
    agreement.save(found, comparison, candidates)


def _heatmap(found: Invariance, candidates: Sequence[Candidate]) -> None:
    grid = epochs_grid(found, candidates)

    def look_into(row: str, column: GridColumn) -> None:
        st.session_state.update(
            layer=row, epoch=int(column.label), filter=column.filter, kind=found.kind, playing=False
        )

    figure = agreement.heatmap(grid, "epochs_heatmap", look_into)
    agreement.legend(found, click="Click a cell to look into that layer at that epoch.")
    downloads.figure_button(figure, "epochs", "Scores by layer and epoch")


@st.fragment
def _look_into(store: Store, found: Invariance, candidates: Sequence[Candidate], chosen: Choices) -> None:
    with part():
        _draw_epoch(store, found, candidates, chosen)


def _draw_epoch(store: Store, found: Invariance, candidates: Sequence[Candidate], chosen: Choices) -> None:
    epoch = st.session_state["epoch"]
    own = next((own for own in candidates if own.label == str(epoch)), None)
    st.header(f"Epoch {epoch}", anchor=False)
    if own is None:
        st.caption(f"Epoch {epoch} is not among those compared; choose another in the side bar, or click a cell.")
        return
    if own.measured is None:
        st.caption(
            f"{plain(own.reason[:1].upper() + own.reason[1:])}. **Measure**, in the side bar, measures this epoch at "
            "the ε of all; or choose another epoch there."
        )
        return
    layer = st.session_state.get("layer")
    grid = epochs_grid(found, [own])
    if layer in grid.rows:
        st.html(f'<p class="fss-quiet">{cell_words(grid, grid.rows.index(layer), 0)}</p>')
    st.page_link("app.py", label="Open this epoch in Explore", query_params=agreement.explore_link(own))
    request = replace(chosen.request, spec=own.spec)
    try:
        version = version_of(store, request)
        picture = reading.read_picture(store, request, request.key, version)
    except FssError as error:
        # Its control, say: what is compared is sound. Explore offers to mend it.
        st.error(plain(str(error)))
        return
    if picture is None:
        st.caption("It vanished meanwhile; look again.")
        return
    rows = [name for name in picture.rows if picture.responses_of(name) is not None]
    scores = reading.read_scores(picture, request.key, version, chosen)
    drilldown.draw(store, picture, scores, chosen, rows)


def _trajectories(found: Invariance) -> None:
    st.header("Layers over epochs", anchor=False)
    rows = [row.name for row in found.table.rows]
    st.session_state["layers"] = [name for name in st.session_state["layers"] if name in rows]
    asked = st.multiselect(
        "Layers",
        rows,
        key="layers",
        max_selections=MOST_TRAJECTORIES,
        placeholder="Those whose score moves most",
    )
    shown = asked or list(rows_that_move(found.table))
    if len(found.table.columns) < 2:
        st.caption("One epoch is measured: with a second, scores are drawn as curves.")
    figure = trajectories_figure(found, shown, dark=is_dark())
    st.plotly_chart(
        figure,
        key="trajectories",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=trajectories_alt(found, shown),
    )
    st.html(
        f'<p class="fss-quiet">Bands: {found.spec.level:.0%} intervals over n = '
        f"{found.table.columns[0].num_images} images, this initialisation. Grey band: robust, within "
        f"±{found.spec.tolerance:g}.</p>"
    )
    downloads.figure_button(figure, "trajectories", "Scores of layers over epochs")


# Playing --------------------------------------------------------------------------------------------------


def player(found: Invariance) -> None:
    """Draw all layers at one epoch, and let the epochs play; it polls only while they do."""
    state = st.session_state
    labels = [own.label for own in found.table.columns]
    st.header("All layers, epoch by epoch", anchor=False)
    if state.get("playing") and time.monotonic() - state.get("played_at", 0.0) > _FORGOTTEN_SECONDS:
        state["playing"] = False  # the view was left while it played
    playing = bool(state.get("playing")) and len(labels) > 1
    if not playing:
        now = str(state["epoch"])
        state["frame"] = now if now in labels else labels[-1]
    state["drawn_frame"] = None
    st.fragment(_play, run_every=_TICK_SECONDS if playing else None)(found, labels, playing=playing)


def _play(found: Invariance, labels: list[str], *, playing: bool) -> None:
    state = st.session_state
    if "next_epoch" in state or bool(state.get("playing")) != playing:
        st.rerun()
    if playing:
        state["played_at"] = time.monotonic()
        if state["drawn_frame"] is not None:
            place = labels.index(state["frame"]) + 1
            state["frame"] = labels[min(place, len(labels) - 1)]
            if place >= len(labels) - 1:
                _stop()
    if state.get("frame") not in labels:
        state["frame"] = labels[-1]
    state["drawn_frame"] = state["frame"]
    if len(labels) > 1:
        button, slider = st.columns([1, 6], vertical_alignment="bottom")
        if playing:
            button.button("Stop", key="play", on_click=_stop)
        else:
            button.button("Play", key="play", on_click=_start, args=(labels,))
        slider.select_slider("Epoch shown", labels, key="frame", on_change=_stop)
    figure = profile_figure(found, state["frame"], dark=is_dark())
    st.plotly_chart(
        figure,
        key="profile",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=profile_alt(found, state["frame"]),
    )
    if "next_epoch" in state:
        st.rerun()


def _start(labels: list[str]) -> None:
    state = st.session_state
    if state["frame"] == labels[-1]:
        state["frame"] = labels[0]
    state.update(playing=True, played_at=time.monotonic())


def _stop() -> None:
    """Stay at the epoch that is shown: it is the side bar's from now on."""
    st.session_state.update(playing=False, next_epoch=int(st.session_state["frame"]))


def follow_player() -> None:
    """Take over the epoch at which playing stopped; before the side bar is drawn."""
    if "next_epoch" in st.session_state:
        st.session_state["epoch"] = st.session_state.pop("next_epoch")


def comparison_of(spec: MeasurementSpec, labels: Sequence[str] = ()) -> ComparisonSpec:
    """Ask for the epochs of a network on a data set."""
    return ComparisonSpec(across="epochs", measurement=replace(spec, epoch=spec.epoch), labels=tuple(labels))
