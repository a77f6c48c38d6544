"""Figures of comparisons say what the numbers say, in both designs, in strict JSON, and safely."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from test_figures import EVIL, click_targets, letters_by_place, sent, strokes, texts, traces
from test_invariance import compare, exact, noisy

from fss_core.figures.agreement import (
    agreement_heatmap,
    agreement_heatmap_alt,
    place_of_point,
    tau_matrix,
    tau_matrix_alt,
)
from fss_core.figures.style import DARK, LIGHT
from fss_core.figures.trajectories import profile_alt, profile_figure, trajectories_figure
from fss_core.invariance import Invariance, tabulate_scores
from fss_core.invariance.grids import AgreementGrid, cell_words, comparison_grid, epochs_grid
from fss_core.invariance.groups import entries_by_row
from fss_core.invariance.lookup import Candidate
from fss_core.invariance.reports import letter
from fss_core.numerals import number, signed
from fss_core.responses import Responses
from fss_core.specs import SYNAPTIC_FILTERS, MeasurementSpec, ScoreSpec, TrainingSpec

SPEC = MeasurementSpec(training=TrainingSpec(network="resnet18", dataset="mnist5k"), epoch=0)


def candidates(columns: dict[str, Responses | None]) -> tuple[Candidate, ...]:
    return tuple(
        Candidate(
            label=label,
            title=f"epoch {label}",
            spec=SPEC,
            about_epsilon="as given",
            measured=None if own is None else SimpleNamespace(responses=own),  # type: ignore[arg-type]
            reason="" if own is not None else "not measured",
        )
        for label, own in columns.items()
    )


def epochs(number: int = 3, num_layers: int = 6, **named: Any) -> dict[str, Responses | None]:
    return {str(10 * index): noisy(index, num_layers, **named) for index in range(number)}


def compared(columns: dict[str, Responses | None], **how: Any) -> Invariance:
    return compare({label: own for label, own in columns.items() if own is not None}, **how)


def make_grid(columns: dict[str, Responses | None]) -> AgreementGrid:
    return epochs_grid(compared(columns), candidates(columns))


# The heatmap ----------------------------------------------------------------------------------------------


def test_every_cell_has_its_colour_and_its_letter_to_click() -> None:
    columns = epochs() | {"40": None}
    found, grid = compared(columns), make_grid(columns)
    figure = agreement_heatmap(grid)
    letters, targets = letters_by_place(figure), click_targets(figure)
    by_row = entries_by_row(found.table)
    assert len(targets) == 6 * 4
    for place in targets:
        row, column = place_of_point(place, grid)
        if grid.columns[column].label == "40":
            assert letters[place] == "…"
        else:
            assert letters[place] == letter(by_row[grid.rows[row]][column])
    [cells] = traces(figure, "heatmap")
    assert np.isfinite(cells.z).sum() == 6 * 3
    scores = [own.score for own in found.table.entries]
    assert cells.z[np.isfinite(cells.z)].tolist() == pytest.approx(scores, abs=1e-6)
    hatched = sum(own.certainty == "leaning" for own in found.table.entries)
    assert len(strokes(figure)) == 2 * hatched > 0


def test_beside_each_row_stands_whether_its_call_stays() -> None:
    columns: dict[str, Responses | None] = {
        "0": exact([0.5, 0.9, 0.9]),
        "1": exact([0.5, 0.9, 0.2]),
        "2": exact([0.5, 0.2, 0.2]),
    }
    grid = make_grid(columns)
    assert grid.marks == ("●", "33%", "33%")
    figure = agreement_heatmap(grid)
    shown = [text for trace in traces(figure, "scatter") if trace.mode == "text" for text in trace.text]
    assert shown.count("33%") == 2
    assert "the call stays in 1." in agreement_heatmap_alt(grid)
    assert "0: 1 fragile, 2 robust" in agreement_heatmap_alt(grid)


def test_filters_stand_side_by_side_with_one_colour_scale() -> None:
    columns = epochs(2, filters=SYNAPTIC_FILTERS)
    there = {label: own for label, own in columns.items() if own is not None}
    tables = {
        name: tabulate_scores(there, across="epochs", spec=ScoreSpec(), filter=name, kind="clean")
        for name in (*SYNAPTIC_FILTERS, "mean")
    }
    grid = comparison_grid(tables, candidates(columns), compared(columns, filter="mean"))
    assert [(own.label, own.filter) for own in grid.columns] == [(label, name) for label in there for name in tables]
    for row, name in enumerate(grid.rows):
        for column, own in enumerate(grid.columns):
            entry = next(one for one in tables[own.filter].entries if (one.row, one.column) == (name, own.label))
            assert grid.cells[row][column].numbers == (entry.score, entry.low, entry.high)
    figure = agreement_heatmap(grid)
    [cells] = traces(figure, "heatmap")
    assert cells.zmax == -cells.zmin >= np.nanmax(np.abs(cells.z)) - 1e-6
    headings = [own.text for own in figure.layout.annotations]
    assert headings == ["<b>epoch 0</b>", "<b>epoch 10</b>"]
    assert "n = 120" in cell_words(grid, 0, 0)


def test_too_many_cells_are_refused() -> None:
    grid = make_grid(epochs())
    many = replace(grid, rows=grid.rows * 60, cells=grid.cells * 60)
    with pytest.raises(ValueError, match="at most 1000 cells, got 360 × 3; choose fewer columns"):
        agreement_heatmap(many)
    with pytest.raises(ValueError, match=r"no cell at \(60, 0\) in a grid of 6 × 3"):
        place_of_point((60, 0), grid)


def test_names_of_strangers_do_not_become_markup() -> None:
    columns: dict[str, Responses | None] = {str(index): noisy(index, 2, names=[EVIL, "fine"]) for index in range(2)}
    found, grid = compared(columns), make_grid(columns)
    made = [
        agreement_heatmap(grid),
        tau_matrix(found, {"0": EVIL, "1": "fine"}),
        trajectories_figure(found, [EVIL]),
        profile_figure(found, "0"),
    ]
    for figure in made:
        for text in texts(sent(figure)):
            assert "<b onclick" not in text
            assert "</script" not in text


# Rankings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number_of_epochs", "dash"), [(3, " – "), (4, " –<br>")])
def test_the_matrix_has_tau_its_interval_and_the_ceilings(number_of_epochs: int, dash: str) -> None:
    found = compared(epochs(number_of_epochs))
    figure = tau_matrix(found, {own.label: f"epoch {own.label}" for own in found.table.columns})
    [cells] = traces(figure, "heatmap")
    for index, column in enumerate(found.table.columns):
        assert cells.z[index][index] == pytest.approx(column.ceiling.value, abs=1e-6)
    letters = {(x, y): text for (x, y), text in letters_by_place(figure).items()}
    for pair in found.rankings:
        i, j = (["0", "10", "20", "30"].index(label) for label in (pair.first, pair.second))
        tau = pair.tau
        assert cells.z[i][j] == cells.z[j][i] == pytest.approx(tau.value, abs=1e-6)
        assert letters[i, j] == f"{number(tau.value)}<br>{number(tau.low)}{dash}{number(tau.high)}"
        assert tau.null is not None
        assert f"[{number(tau.null.low)}, {number(tau.null.high)}]" in cells.text[i][j]
        assert f"epoch {pair.first} and epoch {pair.second}: {number(tau.value)}" in tau_matrix_alt(
            found, {own.label: f"epoch {own.label}" for own in found.table.columns}
        )


def test_what_cannot_be_ranked_is_a_dash_with_its_reason() -> None:
    found = compared({"0": exact([0.5, 0.5]), "1": exact([0.5, 0.4])})
    figure = tau_matrix(found, {"0": "zero", "1": "one"})
    [cells] = traces(figure, "heatmap")
    assert np.isnan(cells.z[0][1])
    assert "tied: epoch 0: all 2 layers have the same score" in cells.text[0][1]
    assert letters_by_place(figure)[0.0, 1.0] == "–"
    sent(figure)


# Over epochs ----------------------------------------------------------------------------------------------


def test_trajectories_are_the_scores_with_their_intervals() -> None:
    found = compared(epochs())
    names = ["layer1", "layer4"]
    figure = trajectories_figure(found, names)
    lines = {trace.name: trace for trace in figure.data if trace.mode == "lines+markers"}
    assert list(lines) == names
    for name, line in lines.items():
        entries = entries_by_row(found.table)[name]
        assert list(line.x) == [0, 10, 20]
        assert list(line.y) == pytest.approx([own.score for own in entries], abs=1e-6)
        assert line.customdata[:, 0].tolist() == pytest.approx([own.low for own in entries], abs=1e-6)
    styles = {(line.line.color, line.line.dash, line.marker.symbol) for line in lines.values()}
    assert len(styles) == 2
    with pytest.raises(ValueError, match="at most 8 layers can be told apart, got 9"):
        trajectories_figure(found, ["layer1"] * 9)


def test_a_trajectory_has_a_gap_where_there_is_no_score() -> None:
    columns = epochs()
    assert columns["10"] is not None
    columns["10"] = noisy(1, 6, changes=[False] + [True] * 5)
    found = compared(columns)
    figure = trajectories_figure(found, ["layer0"])
    [line] = [trace for trace in figure.data if trace.mode == "lines+markers"]
    assert np.isnan(line.y[1])
    assert not line.connectgaps
    bands = [trace for trace in figure.data if trace.fill == "toself"]
    assert [list(band.x) for band in bands] == [[0, 0], [20, 20]]


@pytest.mark.parametrize("dark", [False, True])
def test_the_profile_has_the_same_axes_at_every_epoch(dark: bool) -> None:
    found = compared(epochs())
    made = {label: profile_figure(found, label, dark=dark) for label in ("0", "10", "20")}
    assert len({tuple(figure.layout.yaxis.range) for figure in made.values()}) == 1
    colours = DARK if dark else LIGHT
    for label, figure in made.items():
        [own] = [trace for trace in figure.data if trace.marker.color == colours.accent]
        entries = [one for one in found.table.entries if one.column == label]
        assert list(own.y) == pytest.approx([one.score for one in entries], abs=1e-6)
        ends = np.array(own.y) + np.array(own.error_y.array)
        assert ends.tolist() == pytest.approx([one.high for one in entries], abs=1e-5)
        decided = [symbol == "circle" for symbol in own.marker.symbol]
        assert decided == [one.certainty == "decided" for one in entries]
        lowest = min(entries, key=lambda one: one.score or 0.0)
        assert f"at epoch {label}" in profile_alt(found, label)
        assert f"lowest {signed(lowest.score, 2)} in {lowest.row}" in profile_alt(found, label)
