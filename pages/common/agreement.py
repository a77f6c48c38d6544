"""What the Epochs and the Compare view share: reading a comparison once, and its panels."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import streamlit as st
from plotly.graph_objects import Figure

from fss_core.exports import to_csv
from fss_core.figures.agreement import (
    agreement_heatmap,
    agreement_heatmap_alt,
    place_of_point,
    tau_matrix,
    tau_matrix_alt,
)
from fss_core.figures.grids import CLICK_CONFIG
from fss_core.figures.style import SAVE_CONFIG
from fss_core.invariance import Across, Invariance, ScoreTable, Statistic, measure_invariance, tabulate_scores
from fss_core.invariance.grids import AgreementGrid, GridColumn
from fss_core.invariance.groups import GROUP_WORDS, group_rows
from fss_core.invariance.lookup import (
    Candidate,
    ComparisonSpec,
    Known,
    epsilon_text,
    find_candidate,
    find_pair,
    same_images,
    version_of,
)
from fss_core.invariance.reports import (
    COLUMN_HEADS,
    ROW_NOUNS,
    STATISTICS,
    column_words,
    invariance_json,
    statistic_words,
)
from fss_core.numerals import number
from fss_core.reports import REFERENCES
from fss_core.responses import Responses
from fss_core.scores import KINDS, MEAN_FILTER, Kind
from fss_core.specs import SYNAPTIC_FILTERS, MeasurementSpec, ScoreSpec, digest
from fss_core.store import Store
from pages.common import choices, downloads, known, links
from pages.common.choices import KIND_TITLES
from pages.common.frame import escaped, is_dark, plain
from pages.common.links import Param
from pages.common.retrain_table import TABLE_STYLE
from pages.common.tiles import row, tile

if TYPE_CHECKING:
    from pandas import DataFrame

FILTERS = {str(name): choices.FILTERS[name] for name in (MEAN_FILTER, *SYNAPTIC_FILTERS)}

PARAMS: dict[str, Param] = {
    "score_kind": Param(default="adversarial", what="score that is compared", known=lambda: KINDS),
    "score_filter": Param(default=MEAN_FILTER, what="filter that is compared", known=lambda: FILTERS),
}
"""What both views add to the side bar's parameters."""

_BOX_WIDTH = 180
LIST_WIDTH = 420
"""Pixels, of a box in which several can be chosen."""

_NULL = (
    "Null: layers permuted within their kind, in each column by itself. What is not above it says no more than that "
    "layers of one kind are alike."
)
_DEFINITIONS = {
    "share": "Share of the rows to which all columns give the same call: fragile, robust or antifragile. " + _NULL,
    "kappa": "Agreement of calls beyond that of columns that draw calls from the pooled frequencies. It collapses when "
    "most rows share a call. " + _NULL,
    "ac1": "Agreement of calls beyond chance, which stays meaningful when most rows share a call. " + _NULL,
}
_NAMES = {"share": "Same call everywhere", "kappa": "Fleiss’ κ", "ac1": "Gwet’s AC1"}


# Reading --------------------------------------------------------------------------------------------------


@st.cache_resource(max_entries=64, show_spinner=False)
def _read_candidate(
    _store: Store, _comparison: ComparisonSpec, _known: Sequence[Known], label: str, key: str, version: object
) -> Candidate:
    """Read one column once for all viewers, until there is more of it."""
    return find_candidate(_store, _comparison, label, _known)


def read_candidates(store: Store, comparison: ComparisonSpec, known: Sequence[Known]) -> tuple[Candidate, ...]:
    """Read what is compared; while one column is being measured, the others are not read again."""
    found = [
        _read_candidate(
            store,
            comparison,
            known,
            label,
            digest([comparison.across, comparison.of(label)]),
            version_of(store, comparison, label, known),
        )
        for label in comparison.labels
    ]
    return same_images(comparison.across, found)


def read_pair(
    store: Store, first: MeasurementSpec, second: MeasurementSpec, known: Sequence[Known]
) -> tuple[Across, tuple[Candidate, ...]]:
    """Read two views that are compared."""
    versions = [
        version_of(store, ComparisonSpec(across="epochs", measurement=own), str(own.epoch), known)
        for own in (first, second)
    ]
    return _read_pair(store, first, second, known, digest([first, second]), versions)


@st.cache_resource(max_entries=16, show_spinner=False)
def _read_pair(
    _store: Store,
    _first: MeasurementSpec,
    _second: MeasurementSpec,
    _known: Sequence[Known],
    key: str,
    versions: object,
) -> tuple[Across, tuple[Candidate, ...]]:
    return find_pair(_store, _first, _second, _known)


def _identity(candidates: Sequence[Candidate]) -> str:
    """Name what is compared: the same columns compare in the same way."""
    return digest(
        [
            [own.label, own.measured.key, own.measured.origin, own.measured.responses.num_images]
            for own in candidates
            if own.measured is not None
        ]
    )


def compare(candidates: Sequence[Candidate], across: Across, score: ScoreSpec, filter: str, kind: Kind) -> Invariance:
    """Compare once for all viewers: resampling takes about a second."""
    return _compare(candidates, _identity(candidates), across, score, filter, kind)


@st.cache_resource(max_entries=48, show_spinner="Comparing: resampling images, permuting layers …")
def _compare(
    _candidates: Sequence[Candidate], identity: str, across: Across, score: ScoreSpec, filter: str, kind: Kind
) -> Invariance:
    return measure_invariance(_columns(_candidates), across=across, spec=score, filter=filter, kind=kind)


def tabulate(candidates: Sequence[Candidate], across: Across, score: ScoreSpec, kind: Kind) -> dict[str, ScoreTable]:
    """Score every filter once for all viewers."""
    return _tabulate(candidates, _identity(candidates), across, score, kind)


@st.cache_resource(max_entries=48, show_spinner=False)
def _tabulate(
    _candidates: Sequence[Candidate], identity: str, across: Across, score: ScoreSpec, kind: Kind
) -> dict[str, ScoreTable]:
    columns = _columns(_candidates)
    return {
        name: tabulate_scores(columns, across=across, spec=score, filter=name, kind=kind)
        for name in (*SYNAPTIC_FILTERS, MEAN_FILTER)
    }


def _columns(candidates: Sequence[Candidate]) -> dict[str, Responses]:
    return {own.label: own.measured.responses for own in candidates if own.measured is not None}


# Panels ---------------------------------------------------------------------------------------------------


def score_boxes(on_change: Callable[[], None] | None = None) -> None:
    """Draw which score is compared."""
    st.selectbox(
        "Score compared",
        list(KINDS),
        format_func=KIND_TITLES.__getitem__,
        key="score_kind",
        on_change=on_change,
        width=_BOX_WIDTH,
    )
    st.selectbox(
        "Filter compared",
        list(FILTERS),
        format_func=FILTERS.__getitem__,
        key="score_filter",
        on_change=on_change,
        width=_BOX_WIDTH,
    )


def explore_link(candidate: Candidate, **more: str) -> dict[str, str]:
    """Write the address at which Explore shows one column, with everything else as it is here."""
    epsilon = "" if candidate.spec.epsilon is None else epsilon_text(candidate.spec.epsilon)
    return links.last_view() | known.link_params(candidate.spec, epsilon=epsilon) | more


def tiles(found: Invariance, candidates: Sequence[Candidate]) -> None:
    """Draw how far calls agree, and what a reader must know first."""
    noun = ROW_NOUNS[found.across]
    boxes = []
    for name in STATISTICS:
        own: Statistic = getattr(found.calls, name)
        boxes.append(tile(_NAMES[name], number(own.value), _note(found, own, noun), _DEFINITIONS[name]))
    st.html(row(boxes))
    st.html(column_table(found, candidates))
    st.markdown(REFERENCES[found.spec.reference])
    if found.cautions:
        st.warning("  \n".join(f"Caution: {plain(caution)}." for caution in found.cautions))


def _note(found: Invariance, own: Statistic, noun: str) -> str:
    if own.value is None:
        return f"{own.state}: {own.reason}"
    interval = (
        "no interval"
        if own.low is None or own.high is None
        else f"{found.spec.level:.0%} interval {number(own.low)} to {number(own.high)}"
    )
    null = "" if own.null is None else f"; null {number(own.null.mean)}, up to {number(own.null.high)}"
    where = f"{found.calls.num_rows} {noun} in {len(found.calls.columns)} of {len(found.table.columns)} columns"
    return f"{interval}; {where}{null}"


def column_table(found: Invariance, candidates: Sequence[Candidate]) -> str:
    """Write n, ε, origin and ceiling of every column, and what is missing, as a table."""
    rows = []
    for own in candidates:
        if own.measured is None:
            reason = f'<td class="why" colspan="{len(COLUMN_HEADS) - 1}">{escaped(own.reason)}</td>'
            rows.append(f"<tr><td>{escaped(own.title)}</td>{reason}</tr>")
        else:
            cells = column_words(own, found)
            ceiling = f'<td class="why">{escaped(cells.pop())}</td>'
            rows.append(f"<tr>{''.join(f'<td>{escaped(text)}</td>' for text in cells)}{ceiling}</tr>")
    head = "".join(f"<th>{escaped(text)}</th>" for text in COLUMN_HEADS[:-1])
    head += f'<th style="text-align: left">{escaped(COLUMN_HEADS[-1])}</th>'
    return (
        f"{TABLE_STYLE}<style>.fss-columns td {{white-space: normal !important;}}</style>"
        f'<table class="fss-table fss-columns"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
    )


def missing(candidates: Sequence[Candidate], *, expanded: bool = False) -> None:
    """Name what is missing, with the command and the link that bring it; nothing starts by itself."""
    absent = [own for own in candidates if own.measured is None]
    if not absent:
        return
    with st.expander(f"What is missing, and how to measure it ({len(absent)})", expanded=expanded or len(absent) < 4):
        for own in absent:
            st.html(f'<p class="fss-quiet" style="margin: 0"><b>{escaped(own.title)}</b>: {escaped(own.reason)}</p>')
            st.page_link(
                "app.py",
                label=plain(f"Open {own.title} in Explore, to measure it there"),
                query_params=explore_link(own),
            )
            st.code(own.command, language=None, wrap_lines=True)


def matrix(found: Invariance, candidates: Sequence[Candidate]) -> None:
    """Draw how alike columns rank the rows, with intervals and nulls as a table beside it."""
    titles = {own.label: own.short_title for own in candidates}
    figure = tau_matrix(found, titles, dark=is_dark())
    st.plotly_chart(
        figure,
        key="tau_matrix",
        theme=None,
        width="stretch",
        config=SAVE_CONFIG,
        alt=tau_matrix_alt(found, titles),
    )
    st.html(
        f'<p class="fss-quiet">1: the same ranking, 0: unrelated, −1: reversed. {found.spec.level:.0%} intervals over '
        "images, by the basic bootstrap, which need not lie around the estimate. Ceiling: mean τ between two random "
        "halves of a column’s images; each half has half the images, so τ between columns may exceed it.</p>"
    )
    if found.rankings:
        with st.expander("Every pair, with its interval and its null"):
            lines = "".join(
                f"<tr><td>{escaped(titles[own.first])} and {escaped(titles[own.second])}</td><td>{own.num_rows}</td>"
                f'<td class="why">{escaped(statistic_words(own.tau))}</td></tr>'
                for own in found.rankings
            )
            st.html(
                f'{TABLE_STYLE}<table class="fss-table"><thead><tr><th>Pair</th><th>{ROW_NOUNS[found.across]}</th>'
                f'<th style="text-align: left">Kendall’s τ-b</th></tr></thead><tbody>{lines}</tbody></table>'
            )
    downloads.figure_button(figure, "tau", "Kendall's tau between rankings")


def groups(found: Invariance) -> None:
    """Name the rows that agree and those that do not."""
    noun = ROW_NOUNS[found.across]
    st.header(f"Which {noun} keep their call", anchor=False)
    own = group_rows(found)
    lines = []
    for name, words in GROUP_WORDS.items():
        if rows := getattr(own, name):
            names = ", ".join(escaped(row) for row in rows)
            lines.append(
                f'<p class="fss-quiet" style="margin: 0.2rem 0"><b>{escaped(words[0].upper() + words[1:])}</b> '
                f"({len(rows)}): {names}</p>"
            )
    st.html("".join(lines) or f'<p class="fss-quiet">No {noun}.</p>')


def _csv(frame: Callable[[], DataFrame]) -> bytes:
    return to_csv(frame())


def save(found: Invariance, comparison: ComparisonSpec, candidates: Sequence[Candidate]) -> None:
    """Offer the numbers."""
    name = f"fss-across-{comparison.across}"
    tables = {
        "Scores (CSV)": ("scores", found.table.to_dataframe),
        "Rankings (CSV)": ("rankings", found.to_dataframe),
        "Calls (CSV)": ("calls", found.calls.to_dataframe),
    }
    with st.container(horizontal=True, gap="small"):
        for label, (part, frame) in tables.items():
            st.download_button(
                label,
                partial(_csv, frame),
                f"{name}-{part}.csv",
                "text/csv",
                key=f"save_{part}",
                on_click="ignore",
            )
        st.download_button(
            "Everything (JSON)",
            lambda: json.dumps(
                invariance_json(comparison, candidates, found), ensure_ascii=False, indent=1, default=str
            ).encode(),
            f"{name}.json",
            "application/json",
            key="save_invariance",
            on_click="ignore",
        )


def heatmap(grid: AgreementGrid, key: str, look_into: Callable[[str, GridColumn], None]) -> Figure:
    """Draw the heatmap; a click on a cell calls ``look_into`` with its row and its column."""
    figure = agreement_heatmap(grid, dark=is_dark())

    def choose_cell() -> None:
        points = st.session_state[key]["selection"]["points"]
        if points:
            row, column = place_of_point((points[0]["x"], points[0]["y"]), grid)
            look_into(grid.rows[row], grid.columns[column])

    st.plotly_chart(
        figure,
        key=key,
        on_select=choose_cell,
        selection_mode="points",
        theme=None,
        width="stretch",
        config=CLICK_CONFIG,
        alt=agreement_heatmap_alt(grid),
    )
    return figure


def legend(found: Invariance, *, click: str, by: str = "") -> None:
    """Say what letters, marks and intervals of the heatmap mean."""
    st.html(
        f'<p class="fss-quiet"><b>F</b> fragile, <b>R</b> robust, <b>A</b> antifragile: decided. <b>f r a</b>, '
        f"hatched: leaning. · not measurable, … not measured. Stays: ● the same call in all columns, else the share "
        f"of pairs of columns that agree{by}. Score beyond or within ±{found.spec.tolerance:g}; "
        f"{found.spec.level:.0%} interval over images, this initialisation. {click}</p>"
    )
