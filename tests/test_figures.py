"""Figures say what the numbers say, in both designs, in little space, and safely."""

from __future__ import annotations

import base64
import io
import json
import pkgutil
import re
import subprocess
import sys
from dataclasses import replace
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pytest
from PIL import Image
from test_scores import make_responses, random_responses

from fss_core import figures
from fss_core.figures.curves import histogram_alt, histogram_figure, response_alt, response_figure
from fss_core.figures.grids import CLICK_CONFIG, cell_of_point, score_heatmap, score_heatmap_alt
from fss_core.figures.heat import readable
from fss_core.figures.images import images_alt, images_figure
from fss_core.figures.maps import threshold_heatmap, threshold_heatmap_alt
from fss_core.figures.style import DARK, LIGHT, shorten, standalone_html
from fss_core.numerals import signed
from fss_core.responses import LayerFacts, Responses
from fss_core.scores import score_responses
from fss_core.specs import CONTROL_FILTER, GLOBAL_LAYER, SYNAPTIC_FILTERS, ScoreSpec
from fss_core.summaries import (
    ChangedImages,
    RemovedWeights,
    ScoreGrid,
    changed_images,
    control_band,
    letter,
    removed_weights,
    response_curves,
    score_grid,
    threshold_map,
)

EVERY_FILTER = (*SYNAPTIC_FILTERS, CONTROL_FILTER)
EVIL = "<b onclick=alert(1)>%{x}</b></script>"


def sent(figure: Any) -> dict[str, Any]:
    """What a browser receives, which must be strict JSON."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(figure.to_json(validate=False), parse_constant=refuse)  # type: ignore[no-any-return]


def texts(value: Any) -> list[str]:
    """Every string that a figure sends, apart from encoded arrays."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        return [text for key, part in value.items() if key not in ("bdata", "source") for text in texts(part)]
    if isinstance(value, list):
        return [text for part in value for text in texts(part)]
    return []


def traces(figure: Any, kind: str) -> list[Any]:
    return [trace for trace in figure.data if trace.type == kind]


def named(responses: Responses, *names: str) -> Responses:
    layers = zip(responses.layers, names, strict=True)
    return replace(
        responses, layers=tuple(replace(layer, facts=replace(layer.facts, name=name)) for layer, name in layers)
    )


def make_grid(num_layers: int = 4, extra: tuple[str, ...] = (), filters: tuple[str, ...] = ()) -> ScoreGrid:
    responses = random_responses(1, num_layers=num_layers, filters=EVERY_FILTER, change=0.5)
    found = score_responses(responses)
    names = [layer.facts.name for layer in responses.layers]
    more = {"filters": filters} if filters else {}
    return score_grid([found], [*names, *extra], spec=found.spec, responses=[responses], **more)


@pytest.fixture(scope="module")
def responses() -> Responses:
    return random_responses(2, num_layers=3, num_thresholds=7, filters=EVERY_FILTER)


@pytest.fixture(scope="module")
def facts(responses: Responses) -> LayerFacts:
    histogram = np.random.default_rng(0).poisson(3, 200).astype(np.int64)
    return replace(responses.layers[0].facts, histogram=histogram)


# The score heatmap ----------------------------------------------------------------------------------------


def letters_by_place(figure: Any) -> dict[tuple[float, float], str]:
    """The letters drawn within the axes."""
    return {
        (float(x), float(y)): text
        for trace in figure.data
        if trace.type == "scatter" and trace.mode == "text" and trace.textposition == "middle center"
        for x, y, text in zip(trace.x, trace.y, trace.text, strict=True)
    }


def click_targets(figure: Any) -> list[tuple[float, float]]:
    """The points that a click can meet."""
    return [
        (float(x), float(y))
        for trace in figure.data
        if trace.name == "cells"
        for x, y in zip(trace.x, trace.y, strict=True)
    ]


def strokes(figure: Any) -> list[str]:
    """The strokes of the hatching."""
    return [stroke for shape in figure.layout.shapes if shape.path for stroke in shape.path.split("M")[1:]]


@pytest.mark.parametrize("extra", [(), ("later", GLOBAL_LAYER)])
def test_every_cell_has_its_colour_and_its_letter_to_click(extra: tuple[str, ...]) -> None:
    grid = make_grid(extra=extra)
    figure = score_heatmap(grid)
    (heatmap,) = traces(figure, "heatmap")
    edges_x, edges_y = np.asarray(heatmap.x), np.asarray(heatmap.y)
    letters, targets = letters_by_place(figure), click_targets(figure)
    assert len(letters) == len(targets) == len(grid.layers) * len(grid.columns)
    for place in targets:
        layer, kind, name = cell_of_point(place, grid)
        row, column = grid.layers.index(layer), grid.columns.index((kind, name))
        cell = grid.cells[row][column]
        assert letters[place] == (letter(cell.score) if cell.score else "…")
        colour = heatmap.z[np.searchsorted(edges_y, place[1]) - 1][np.searchsorted(edges_x, place[0]) - 1]
        assert np.float32(grid.values[row, column]) == colour or (cell.numbers is None and np.isnan(colour))
        assert (
            figure.layout.xaxis.ticktext[figure.layout.xaxis.tickvals.tolist().index(place[0])]
            == (grid.column_texts[column])
        )
        assert (
            figure.layout.yaxis.ticktext[figure.layout.yaxis.tickvals.tolist().index(place[1])] == grid.row_texts[row]
        )


def test_kinds_and_the_whole_network_stand_apart() -> None:
    figure = score_heatmap(make_grid(extra=(GLOBAL_LAYER,)))
    (heatmap,) = traces(figure, "heatmap")
    empty = np.isnan(heatmap.z)
    assert np.flatnonzero(empty.all(axis=0)).tolist() == [4, 9]
    assert np.flatnonzero(empty.all(axis=1)).tolist() == [4, 5]  # the gap, and the network that is not measured
    widths, heights = np.diff(heatmap.x), np.diff(heatmap.y)
    assert set(widths[[4, 9]].tolist()) == set(heights[[4]].tolist()) == {7}
    assert [note.text for note in figure.layout.annotations] == [
        "<b>Clean</b>",
        "<b>Adversarial</b>",
        "<b>Difference</b>",
    ]
    headings = next(trace for trace in traces(figure, "scatter") if trace.textposition == "top center")
    assert headings.text == ("H", "L", "P", "M") * 3


def test_the_scale_is_symmetric_and_reaches_every_score() -> None:
    grid = make_grid()
    (heatmap,) = traces(score_heatmap(grid), "heatmap")
    assert heatmap.zmax == -heatmap.zmin
    assert np.abs(grid.values).max() <= heatmap.zmax <= np.abs(grid.values).max() + 0.05
    assert heatmap.colorscale[2][0] == 0.5
    assert "fragile" in heatmap.colorbar.title.text
    assert "above chance" in heatmap.colorbar.title.text


def test_leaning_cells_alone_are_hatched() -> None:
    grid = make_grid()
    figure = score_heatmap(grid)
    leaning = {
        place
        for place in click_targets(figure)
        for layer, *column in [cell_of_point(place, grid)]
        if grid.cells[grid.layers.index(layer)][grid.columns.index(tuple(column))].is_leaning
    }
    assert 0 < len(leaning) < 48
    ends = [np.array([own.split(",") for own in stroke.split("L")], dtype=float) for stroke in strokes(figure)]
    middles = [(round(x / 20) * 20, y) for x, y in (own.mean(axis=0) for own in ends)]
    assert len(ends) == 2 * len(leaning)
    assert {y for _, y in middles} == {y for _, y in leaning}
    for own in ends:
        assert {place for place in leaning if np.abs(own - place).max() <= 10}, own


def test_clicks_are_set_up_as_they_were_found_to_work() -> None:
    figure = score_heatmap(make_grid(extra=("later",)))
    assert (figure.layout.hovermode, figure.layout.hoverdistance) == ("closest", -1)
    for axis in (figure.layout.xaxis, figure.layout.yaxis):
        assert axis.fixedrange
        assert axis.range is not None
    for trace in figure.data:
        if trace.name == "cells":
            assert trace.hoverinfo is None
            assert len(trace.x) == len(trace.text) == len(trace.hovertext)
            assert trace.customdata is None or trace.customdata.shape == (len(trace.x), 3)
            assert trace.unselected.textfont.color == trace.textfont.color
        else:
            assert trace.hoverinfo == "skip"
            assert trace.name is None
    assert CLICK_CONFIG == {"displayModeBar": False, "doubleClick": False, "doubleClickDelay": 1}


def test_the_chosen_cell_is_framed() -> None:
    grid = make_grid()
    before = len(score_heatmap(grid).layout.shapes)
    figure = score_heatmap(grid, selected=("layer2", "adversarial", "low_pass"))
    frame = figure.layout.shapes[-1]
    x, y = (frame.x0 + frame.x1) / 2, (frame.y0 + frame.y1) / 2
    assert cell_of_point((x, y), grid) == ("layer2", "adversarial", "low_pass")
    assert (frame.x0, frame.x1, frame.y0, frame.y1) == (x - 10, x + 10, y - 10, y + 10)
    assert len(figure.layout.shapes) == before + 1
    assert len(score_heatmap(grid, selected=("gone", "clean", "pulse")).layout.shapes) == before


def test_a_cell_that_is_not_there_is_refused() -> None:
    grid = make_grid()
    assert cell_of_point((11 * 20 + 2 * 7, 60), grid) == ("layer3", "difference", "mean")
    for place in ((-20, 0), (0, 80), (87, 1), (80, 0)):
        with pytest.raises(ValueError, match="no cell"):
            cell_of_point(place, grid)


def test_too_many_cells_to_click_are_refused_with_the_remedy() -> None:
    grid = score_grid([], [f"layer{index}" for index in range(84)], spec=ScoreSpec())
    with pytest.raises(ValueError, match=r"1000 cells, got 84 × 12; give score_grid fewer layers"):
        score_heatmap(grid)


def test_rows_are_17_pixels_high() -> None:
    heights = [score_heatmap(make_grid(number)).layout.height for number in (1, 2, 10)]
    assert heights[1] - heights[0] == 17
    assert heights[2] - heights[0] == 9 * 17


def test_a_large_grid_is_small() -> None:
    figure = score_heatmap(make_grid(57))
    assert len(figure.to_json(validate=False)) < 90_000


@pytest.mark.parametrize("colours", [LIGHT, DARK])
def test_letters_can_be_read_on_their_cells(colours: Any) -> None:
    """WCAG's level AA asks of small text a contrast of 4.5 : 1."""

    def luminance(colour: Any) -> float:
        parts = [part / 255 for part in colour]
        linear = [part / 12.92 if part <= 0.03928 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    def channels(colour: str) -> list[int]:
        return [int(colour[i : i + 2], 16) for i in (1, 3, 5)]

    values = np.linspace(-1, 1, 201)
    inks = readable(values[None], colours)[0]
    for value, ink in zip(values.tolist(), inks.tolist(), strict=True):
        stops = [stop for stop, _ in colours.scale]
        fill = [np.interp((value + 1) / 2, stops, [channels(own)[i] for _, own in colours.scale]) for i in range(3)]
        low, high = sorted((luminance(fill), luminance(channels(ink))))
        assert (high + 0.05) / (low + 0.05) > 4.5


# All figures ----------------------------------------------------------------------------------------------


def every_figure(responses: Responses, facts: LayerFacts, dark: bool) -> dict[str, Any]:
    curves = response_curves(responses, responses.layers[0].facts.name, "mean", ScoreSpec(reference="retained"))
    band = control_band(responses, responses.layers[0].facts.name)
    removed = removed_weights(facts, responses.rows, "pulse", 3)
    pixels = np.random.default_rng(0).random((5, 3, 8, 8))
    found = score_responses(responses)
    names = [layer.facts.name for layer in responses.layers]
    grid = score_grid([found], [*names, "later"], spec=found.spec, responses=[responses])
    mapped = threshold_map(responses, "pulse", "difference", ScoreSpec(), [*names, "later"])
    return {
        "grid": score_heatmap(grid, dark=dark, selected=(names[0], "clean", "mean")),
        "map": threshold_heatmap(mapped, dark=dark, threshold_index=2),
        "curves": response_figure(curves, band, dark=dark, threshold_index=2),
        "histogram": histogram_figure(facts, removed, dark=dark),
        "images": images_figure(pixels, pixels, [EVIL] * 5, dark=dark),
    }


def test_dark_and_light_differ_in_colours_alone(responses: Responses, facts: LayerFacts) -> None:
    light, dark = (every_figure(responses, facts, dark) for dark in (False, True))
    for name, figure in light.items():
        one, other = sent(figure), sent(dark[name])
        assert one != other
        assert figure.layout.paper_bgcolor == figure.layout.plot_bgcolor == "rgba(0,0,0,0)"
        assert (figure.layout.font.color, dark[name].layout.font.color) == (LIGHT.ink, DARK.ink)
        assert figure.layout.height == dark[name].layout.height
        assert not figure.layout.template.layout.to_plotly_json()


def test_nothing_that_can_be_read_is_not_a_number(responses: Responses, facts: LayerFacts) -> None:
    for figure in every_figure(responses, facts, False).values():
        for text in texts(sent(figure)):
            assert "nan" not in text.lower()
            assert "inf" not in text.lower().replace("info", "")


def test_names_of_strangers_do_no_harm(responses: Responses, facts: LayerFacts) -> None:
    evil = named(responses, EVIL, "b", "c")
    for figure in every_figure(evil, replace(facts, name=EVIL), False).values():
        for text in texts(sent(figure)):
            assert "<b onclick" not in text
            assert "</script" not in text
    page = standalone_html(every_figure(evil, facts, False)["map"], EVIL)
    assert "<b onclick" not in page
    assert "<title>&lt;b onclick=alert(1)&gt;%{x}&lt;/b&gt;&lt;/script&gt;</title>" in page


def test_a_page_of_its_own_needs_no_network(responses: Responses, facts: LayerFacts) -> None:
    figure = every_figure(responses, facts, True)["curves"]
    page = standalone_html(figure, "Response", dark=True)
    assert page.startswith("<!DOCTYPE html>")
    assert len(page) > 1_000_000
    assert "<script src=" not in page
    assert f"background:{DARK.ground}" in page
    assert f"background:{LIGHT.ground}" in standalone_html(figure, "Response")
    assert "Plotly.downloadImage(plot" in page


def test_long_names_keep_their_ends() -> None:
    assert shorten("conv1") == "conv1"
    assert shorten("a" * 20 + "b" * 20, 11) == "aaaaa…bbbbb"
    assert len(shorten("x" * 100)) == 28


# The threshold heatmap ------------------------------------------------------------------------------------


def test_a_threshold_heatmap_shows_the_integrand(responses: Responses) -> None:
    changes = np.ones((6, 7), dtype=bool)
    changes[2, :2] = False
    layers = tuple(replace(layer, facts=replace(layer.facts, changes=changes)) for layer in responses.layers)
    found = threshold_map(replace(responses, layers=layers), "pulse", "adversarial", ScoreSpec(), ["new", "layer0"])
    figure = threshold_heatmap(found, threshold_index=3)
    (heatmap,) = traces(figure, "heatmap")
    np.testing.assert_array_equal(heatmap.z, found.values.astype(np.float32))
    assert "t = 0.500, threshold 0" in heatmap.text[1][3]
    assert ["nothing changes" in text for text in heatmap.text[1]] == [True, True, *[False] * 5]
    (dots,) = [trace for trace in traces(figure, "scatter") if trace.marker.symbol == "circle"]
    assert (dots.x.tolist(), dots.y.tolist()) == ([0, 1], [1, 1])
    frame = figure.layout.shapes[-1]
    assert (frame.x0, frame.x1) == (2.5, 3.5)
    assert [own.text for own in traces(figure, "scatter") if own.textposition == "middle center"] == [
        ("not measured yet",)
    ]
    assert "n = 120" in heatmap.hovertemplate
    assert figure.layout.xaxis.tickvals == (0, 1.5, 3, 4.5, 6)


def test_a_map_of_a_network_at_chance_gives_the_reason() -> None:
    wrong = np.zeros((1, 3, 3, 40), dtype=bool)
    found = threshold_map(make_responses(wrong, wrong, wrong[0, :2, 0]), "pulse", "clean", ScoreSpec())
    notes = [note.text for note in threshold_heatmap(found).layout.annotations]
    assert any("only 0 clean images are right" in note for note in notes)
    assert "only 0 clean images" in threshold_heatmap_alt(found)


# Curves and histogram -------------------------------------------------------------------------------------


def test_curves_are_drawn_as_computed(responses: Responses) -> None:
    curves = response_curves(responses, "layer0", "low_pass", ScoreSpec(reference="retained"))
    band = control_band(responses, "layer0")
    assert band is not None
    figure = response_figure(curves, band, threshold_index=4)
    by_name = {trace.name: trace for trace in figure.data if trace.name}
    for kind, curve, control in (
        ("clean", curves.clean, band.clean),
        ("adversarial", curves.adversarial, band.adversarial),
    ):
        np.testing.assert_array_equal(by_name[kind].y, curve.accuracy.astype(np.float32))
        np.testing.assert_array_equal(by_name[kind].customdata[:, 0], curve.low.astype(np.float32))
        np.testing.assert_array_equal(by_name[kind].customdata[:, 1], curve.high.astype(np.float32))
        np.testing.assert_array_equal(by_name[f"reference, {kind}"].y, curve.reference.astype(np.float32))
        np.testing.assert_array_equal(by_name[f"random, {kind}"].y, control.mean.astype(np.float32))
        assert by_name[f"unfiltered, {kind} ({curve.unfiltered.value:.3f})"].y[0] == curve.unfiltered.value
        assert "(95 %, n = 120)" in by_name[kind].hovertemplate
        assert "3 draws" in by_name[f"random, {kind}"].hovertemplate
    fills = [trace.fillcolor for trace in figure.data if trace.fill == "tonexty"]
    assert fills == [LIGHT.control, LIGHT.control, LIGHT.ink_band, LIGHT.accent_band]
    lines = {(shape.x0, shape.y0) for shape in figure.layout.shapes}
    assert lines == {(0, 0.1), (4 / 6, 0)}  # chance, and the chosen threshold


def test_without_a_control_or_another_reference_less_is_drawn(responses: Responses) -> None:
    figure = response_figure(response_curves(responses, "layer0", "pulse", ScoreSpec()))
    names = [trace.name.split(" (")[0] for trace in figure.data if trace.name]
    assert sorted(names) == ["adversarial", "clean", "unfiltered, adversarial", "unfiltered, clean"]
    assert len(figure.layout.shapes) == 1


def test_curves_and_histogram_share_their_axis(responses: Responses, facts: LayerFacts) -> None:
    curves = response_curves(responses, "layer0", "high_pass", ScoreSpec())
    above = response_figure(curves, threshold_index=2)
    removed = removed_weights(facts, responses.rows, "high_pass", 2)
    below = histogram_figure(facts, removed)
    assert (above.layout.margin.l, above.layout.margin.r) == (below.layout.margin.l, below.layout.margin.r)
    low, high = below.layout.xaxis.range
    rule = below.layout.shapes[-1]
    assert (rule.x0 - low) / (high - low) == pytest.approx(above.layout.shapes[-1].x0) == pytest.approx(2 / 6)


def bars_of(figure: go.Figure) -> dict[float, tuple[int, str]]:
    """Read the bars of a histogram: place → how many weights, and the colour."""
    bars = [
        (x, (count, trace.marker.color))
        for trace in traces(figure, "bar")
        for x, count in zip(trace.x.tolist(), trace.y.tolist(), strict=True)
    ]
    assert len(dict(bars)) == len(bars)  # none is drawn twice
    return dict(bars)


@pytest.mark.parametrize("log_counts", [False, True])
def test_the_removed_part_of_the_histogram_is_shaded(responses: Responses, facts: LayerFacts, log_counts: bool) -> None:
    removed = removed_weights(facts, responses.rows, "pulse", 3)
    figure = histogram_figure(facts, removed, log_counts=log_counts)
    bars = bars_of(figure)
    assert [bars[x][0] for x in sorted(bars)] == facts.histogram.tolist()
    shade, rule = figure.layout.shapes
    assert (shade.x0, shade.x1) == pytest.approx((-1 / 6, 1 / 6))
    assert rule.x0 == 0
    for x, (_, colour) in bars.items():
        assert colour == (LIGHT.accent if -1 / 6 <= x <= 1 / 6 else LIGHT.muted)
    assert figure.layout.yaxis.type == ("log" if log_counts else "linear")
    assert figure.layout.annotations[0].text == removed.sentence


def test_the_control_shades_nothing_and_the_whole_network_has_no_histogram(
    responses: Responses, facts: LayerFacts
) -> None:
    random = histogram_figure(facts, removed_weights(facts, responses.rows, CONTROL_FILTER, 3))
    assert {colour for _, colour in bars_of(random).values()} == {LIGHT.muted}
    assert len(random.layout.shapes) == 1
    whole = replace(facts, thresholds=np.empty(0), histogram=np.empty(0, dtype=np.int64))
    figure = histogram_figure(whole, removed_weights(whole, responses.rows, "pulse", 3))
    assert not figure.data
    assert "no common weight axis" in figure.layout.annotations[1].text


# Images ---------------------------------------------------------------------------------------------------


def decoded(source: str) -> Any:
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(source.removeprefix("data:image/png;base64,")))))


@pytest.mark.parametrize(("channels", "dtype"), [(1, np.uint8), (3, np.uint8), (3, np.float32)])
def test_images_are_the_pixels_enlarged(channels: int, dtype: Any) -> None:
    raw = np.random.default_rng(0).integers(0, 256, (6, channels, 8, 8), dtype=np.uint8)
    pixels = raw if dtype == np.uint8 else raw.astype(dtype) / 255
    figure = images_figure(pixels, pixels[::-1], [f"{index}\nclean: a → b" for index in range(6)])
    images = figure.layout.images
    assert len(images) == 12
    for index in range(6):
        for image, own in ((images[2 * index], raw[index]), (images[2 * index + 1], raw[5 - index])):
            small = decoded(image.source)[::24, ::24]
            np.testing.assert_array_equal(small if channels == 1 else small.transpose(2, 0, 1), own.squeeze())
        assert images[2 * index + 1].x > images[2 * index].x
        assert images[2 * index + 1].y == images[2 * index].y
    captions = [note.text for note in figure.layout.annotations if note.text.startswith("<b>")]
    assert captions == [f"<b>{index}</b><br>clean: a → b" for index in range(6)]


@pytest.mark.parametrize(("name", "per_row"), [("7", 4), ("automobile", 2), ("European fire salamander", 2)])
def test_captions_leave_each_other_room(name: str, per_row: int) -> None:
    pixels = np.zeros((4, 3, 8, 8), dtype=np.uint8)
    figure = images_figure(pixels, pixels, [f"{name}\nclean: {name} → {name}"] * 4)
    captions = [note for note in figure.layout.annotations if note.text.startswith("<b>")]
    assert len({note.x for note in captions}) == per_row
    shown = max(len(re.sub("<.>|</.>", "", line)) for note in captions for line in note.text.split("<br>"))
    assert shown <= {4: 16, 2: 30}[per_row]


def test_images_without_an_adversarial_version_and_none_at_all() -> None:
    pixels = np.zeros((2, 1, 8, 8), dtype=np.uint8)
    figure = images_figure(pixels, None, ["a", "b"])
    assert len(figure.layout.images) == 2
    assert {note.text for note in figure.layout.annotations} == {"clean", "<b>a</b>", "<b>b</b>"}
    assert not images_figure(pixels[:0], None, []).layout.images
    with pytest.raises(ValueError, match="2 images and 1 captions"):
        images_figure(pixels, None, ["a"])
    with pytest.raises(ValueError, match="1 or 3 channels, got 2"):
        images_figure(np.zeros((1, 2, 8, 8), dtype=np.uint8), None, ["a"])


# Words ----------------------------------------------------------------------------------------------------


def test_alternative_texts_hold_the_main_numbers(responses: Responses, facts: LayerFacts) -> None:
    grid = make_grid(extra=("later",))
    words = score_heatmap_alt(grid)
    assert "5 layers by 12" in words
    fragile = sum(row[3].score is not None and row[3].score.call == "fragile" for row in grid.cells)
    assert f"clean: {fragile} fragile" in words
    assert "1 not measured" in words

    found = threshold_map(responses, "pulse", "clean", ScoreSpec())
    words = threshold_heatmap_alt(found)
    assert f"Lowest {signed(found.values.min(), 2)}" in words
    assert f"highest {signed(found.values.max(), 2)}" in words
    assert "nothing measured yet" in threshold_heatmap_alt(
        threshold_map(responses, "pulse", "clean", ScoreSpec(), ["later"])
    )

    curves = response_curves(responses, "layer1", "pulse", ScoreSpec())
    words = response_alt(curves)
    assert f"clean accuracy {curves.clean.unfiltered.value:.2f} without a filter" in words
    assert "layer1 under the pulse filter" in words

    removed: RemovedWeights = removed_weights(facts, responses.rows, "pulse", 3)
    assert removed.sentence in histogram_alt(facts, removed)

    changed: ChangedImages = changed_images(responses, "layer0", "pulse", 3, 2)
    assert f"2 of {changed.num_changed} images" in images_alt(changed)
    assert f"clean: {changed.clean.lost} from right to wrong" in images_alt(changed)


def test_importing_figures_loads_neither_torch_nor_streamlit() -> None:
    heavy = ["torch", "streamlit", "scipy"]
    modules = ", ".join(own.name for own in pkgutil.iter_modules(figures.__path__, "fss_core.figures."))
    code = f"import {modules}, sys, json; print(json.dumps([n for n in {heavy} if n in sys.modules]))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert json.loads(done.stdout) == []
