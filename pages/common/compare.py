"""The panels of the Compare view: one network across data sets, one data set across networks, or two views."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, urlencode

import streamlit as st

from fss_core.figures.agreement import column_headings
from fss_core.figures.grids import MOST_CELLS, headings_legend
from fss_core.invariance import Across, Invariance, ScoreTable
from fss_core.invariance.grids import GridColumn, cell_words, comparison_grid
from fss_core.invariance.lookup import Candidate, ComparisonSpec, Known, epsilon_text, known_labels
from fss_core.scores import MEAN_FILTER
from fss_core.specs import SYNAPTIC_FILTERS, MeasurementSpec
from pages.common import agreement, choices, downloads, known
from pages.common.choices import known_datasets, known_networks, measurement_of
from pages.common.frame import plain
from pages.common.links import Param

WAYS = {"datasets": "Across data sets", "networks": "Across networks", "pinned": "With a pinned view"}

WHAT_IT_IS = (
    "Is a layer fragile because of where it stands in the network, or because of the data? This view puts one network "
    "on several **data sets** side by side, layer by layer; or several **networks** on one data set, by the kind and "
    "the relative depth of their layers; or two views of which one is **pinned**."
)
_LONGEST = 400


class _Names(Param):
    """Names with commas in the address."""

    def parse(self, text: str) -> list[str]:  # type: ignore[override]
        return list(dict.fromkeys(str(Param.parse(self, name)) for name in text.split(",") if name))

    def write(self, value: object) -> str:
        return ",".join(value)  # type: ignore[arg-type]


class _Pin(Param):
    """A view's own parameters, as a query string within the address."""

    def parse(self, text: str) -> str:
        pinned_values(text[:_LONGEST])
        return text[:_LONGEST]


PARAMS: dict[str, Param] = {
    **agreement.PARAMS,
    "across": Param(default="datasets", what="comparison", known=lambda: WAYS),
    "with_datasets": _Names(default=[], what="data set", known=known_datasets),  # type: ignore[arg-type]
    "with_networks": _Names(default=[], what="network", known=known_networks),  # type: ignore[arg-type]
    "pin": _Pin(default="", what="pinned view"),
    "row": Param(default=None, what="row"),
    "column": Param(default=None, what="column"),
}
"""What the Compare view adds to the side bar's parameters."""


# Pinning --------------------------------------------------------------------------------------------------

_PINNED = (
    "network",
    "dataset",
    "epoch",
    "init",
    "train",
    "images",
    "thresholds",
    "attack",
    "mode",
    "epsilon",
    "device",
)


def pinned_values(text: str) -> dict[str, Any]:
    """Read a pinned view; what it does not say is as usual.

    Raises:
        ValueError: it says what makes no sense here.
    """
    values = {key: choices.PARAMS[key].default for key in _PINNED}
    for key, value in parse_qsl(text):
        if key not in values:
            raise ValueError(f"a pinned view has no {key[:40]!r}; it has {', '.join(_PINNED)}")
        values[key] = choices.PARAMS[key].parse(value)
    measurement_of(values)
    return values


def pin_of(spec: MeasurementSpec) -> str:
    """Write a view as it is pinned, without what is as usual."""
    epsilon = "" if spec.epsilon is None else epsilon_text(spec.epsilon)
    params = known.link_params(spec, epsilon=epsilon) | {"device": spec.device}
    return urlencode({key: text for key, text in params.items() if text != str(choices.PARAMS[key].default)}) or (
        f"network={spec.training.network}"
    )


def _pin(spec: MeasurementSpec) -> None:
    st.session_state.update(pin=pin_of(spec), across="pinned")


def _unpin() -> None:
    st.session_state.update(pin="", across="datasets")


def pinned_spec() -> MeasurementSpec | None:
    """What is pinned; ``None`` if nothing is."""
    text = st.session_state["pin"]
    return measurement_of(pinned_values(text)) if text else None


# Controls -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """What can be put side by side, with titles."""

    titles: Mapping[str, str]
    measured: tuple[str, ...]


def offer_of(comparison: ComparisonSpec, found: Sequence[Known]) -> Offer:
    """List the data sets or networks that can be named, and those of which anything is measured."""
    titles = known_datasets() if comparison.across == "datasets" else known_networks()
    return Offer(titles=titles, measured=known_labels(comparison, found))


def way_control(spec: MeasurementSpec) -> str:
    """Draw how views are put side by side, and the pin."""
    with st.container(key="compare_way", horizontal=True, vertical_alignment="center"):
        way = st.segmented_control(
            "What is compared",
            list(WAYS),
            format_func=WAYS.__getitem__,
            key="across",
            required=True,
            label_visibility="collapsed",
        )
        pinned = st.session_state["pin"]
        st.button(
            "Pin this view",
            key="pin_view",
            on_click=_pin,
            args=(spec,),
            disabled=pinned == pin_of(spec),
            help="Keeps what the side bar says; choose something else there, and both are compared.",
        )
        if pinned:
            st.button("Unpin", key="unpin", on_click=_unpin)
    return str(way)


def controls(across: Across, offer: Offer | None) -> None:
    """Draw which score is compared, and of which data sets or networks."""
    with st.container(key="compare_controls", horizontal=True, vertical_alignment="bottom"):
        agreement.score_boxes()
        if offer is not None:
            st.multiselect(
                "Data sets" if across == "datasets" else "Networks",
                list(offer.titles),
                format_func=lambda name: offer.titles.get(name, name),
                key=f"with_{across}",
                placeholder="All that are measured",
                width=agreement.LIST_WIDTH,
            )


def labels_of(comparison: ComparisonSpec, offer: Offer) -> tuple[str, ...]:
    """List what is put side by side: what was chosen, else all that is measured, and the side bar's."""
    asked = tuple(st.session_state[f"with_{comparison.across}"])
    if asked:
        return asked
    own = comparison.label_of(comparison.measurement)
    return offer.measured if own in offer.measured else (*offer.measured, own)


# Panels ---------------------------------------------------------------------------------------------------


def nothing_measured(candidates: Sequence[Candidate]) -> None:
    """Say what the view is, and what brings its first column."""
    st.markdown(WHAT_IT_IS)
    st.info(
        "Nothing of this is measured with the settings of the side bar. **Measure**, there, brings this view's own."
    )
    agreement.missing(candidates, expanded=True)


def nothing_pinned() -> None:
    """Say what pinning does."""
    st.markdown(WHAT_IT_IS)
    st.info("Nothing is pinned. **Pin this view** keeps what the side bar says; then choose something else there.")


def draw(
    found: Invariance,
    tables: Mapping[str, ScoreTable],
    comparison: ComparisonSpec,
    candidates: Sequence[Candidate],
) -> None:
    """Draw everything."""
    there = [own for own in candidates if own.measured is not None]
    agreement.tiles(found, candidates)
    agreement.missing(candidates)
    if len(there) == 1:
        st.info("One column is measured: with a second, agreement can be computed.")
    if found.across == "networks":
        st.markdown(
            "A row is the layers of one kind in one fifth of the depth, 0.0 at the input and 1.0 at the output; a cell "
            "is the mean of their scores. Rows that a network does not have are empty."
        )
    with st.container(key="explore_columns"):
        left, right = st.columns([3, 2], gap="medium")
        with left:
            _heatmap(found, tables, there)
        with right:
            st.header("Do the columns rank the rows alike?", anchor=False)
            agreement.matrix(found, there)
    agreement.groups(found)
    agreement.save(found, comparison, candidates)


def _heatmap(found: Invariance, tables: Mapping[str, ScoreTable], there: Sequence[Candidate]) -> None:
    shown = list(there)
    grid = comparison_grid(tables, shown, found)
    while len(grid.rows) * len(grid.columns) > MOST_CELLS and len(shown) > 1:
        shown.pop()
        grid = comparison_grid(tables, shown, found)
    if len(shown) < len(there):
        st.caption(f"{len(shown)} of {len(there)} are drawn; choose others above. Agreement is that of all.")

    def look_into(row: str, column: GridColumn) -> None:
        st.session_state.update(row=row, column=column.label, score_filter=column.filter)

    figure = agreement.heatmap(grid, "compare_heatmap", look_into)
    name = agreement.FILTERS[found.filter].lower()
    click = "Click a cell to read it below."
    if all(len(heading) == 1 for heading in column_headings(grid)):
        click = f"{headings_legend((*SYNAPTIC_FILTERS, MEAN_FILTER))} {click}"
    agreement.legend(found, click=click, by=f" (by {name})")
    downloads.figure_button(figure, "compare", "Scores side by side")
    _look_into(found, grid, there)


def _look_into(found: Invariance, grid: Any, there: Sequence[Candidate]) -> None:
    """Say what one cell says, for those who do not hover, and lead to where it can be looked into."""
    titles = {own.label: own.title for own in there}
    state = st.session_state
    for key, options in (("row", grid.rows), ("column", tuple(titles))):
        if state.get(key) not in options:
            state[key] = options[0]
    one, two = st.columns(2)
    row = one.selectbox("Cell" if found.across == "networks" else "Layer", grid.rows, key="row")
    label = two.selectbox("Column", list(titles), key="column", format_func=titles.__getitem__)
    own = next(own for own in there if own.label == label)
    place = next(
        (index for index, column in enumerate(grid.columns) if column.label == label and column.filter == found.filter),
        None,
    )
    if place is not None:
        with st.container(key="compare_cell"):
            st.html(f'<p class="fss-quiet">{cell_words(grid, grid.rows.index(row), place)}</p>')
    more = {"kind": found.kind, "filter": found.filter}
    if found.across != "networks":
        more["layer"] = row
    st.page_link(
        "app.py", label=plain(f"Open {own.title} in Explore"), query_params=agreement.explore_link(own, **more)
    )
