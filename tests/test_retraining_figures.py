"""Which layers each rule trains, and the figures of retraining: they say what the numbers say, in both designs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import lanes
import numpy as np
import pytest
from test_figures import sent, texts, traces
from test_retraining_comparing import SPEC, make_retraining, nothing

from fss_core.figures.coverage import coverage_alt, coverage_chart
from fss_core.figures.retraining import (
    MOST_BANDS,
    checkpoints_alt,
    checkpoints_figure,
    retraining_alt,
    retraining_figure,
)
from fss_core.flow import Flow, Measured
from fss_core.retraining import JUDGED, RULES, Retraining, RetrainingSpec, compare, compare_epochs
from fss_core.retraining.coverage import NOT_KNOWN, Coverage, cover
from fss_core.retraining.evidence import pulse_units
from fss_core.scores import score_responses
from fss_core.specs import ScoreSpec
from fss_core.store import Store

RETRAINING = RetrainingSpec(
    measurement=lanes.measurement(),
    budget=1,
    rules=("robust_antifragile", "antifragile", "all", "random", "least_critical"),
    score=ScoreSpec(tolerance=0.16),
    filter="pulse",
)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Store, Measured]]:
    root = tmp_path_factory.mktemp("lanes")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FSS_CACHE_DIR", str(root))
        lanes.make_cache(Path(root))
        with Store() as store:
            yield store, Flow(store, factory=lanes.make_network).measure(lanes.measurement())


@pytest.fixture
def coverage(world: tuple[Store, Measured]) -> Coverage:
    store, measured = world
    return cover(store, RETRAINING, measured)


# Coverage -------------------------------------------------------------------------------------------------


def test_a_column_per_rule_and_a_row_per_layer(coverage: Coverage) -> None:
    assert coverage.layers == lanes.LAYERS
    assert coverage.rules == RETRAINING.rules
    paper, antifragile, everything, _, critical = coverage.shares.T.tolist()
    robust = [float(abs(score.score or 0) <= 0.2) for score in coverage.scores]
    assert paper == robust
    assert 0 < sum(robust) < 4
    assert antifragile == critical == [0, 0, 0, 0]
    assert everything == [1, 1, 1, 1]
    assert coverage.num_live == (54, 324, 324, 384)
    assert coverage.trained[0] == np.dot(robust, coverage.num_live)
    assert coverage.trained[2] == sum(coverage.num_live)
    assert coverage.reasons == ("", "nothing is called antifragile", "", "", NOT_KNOWN)
    assert coverage.num_layers("robust_antifragile") == sum(robust)
    assert [letter.upper() for letter in coverage.letters] == ["R" if own else "F" for own in robust]


def test_the_letters_are_of_the_score_that_decides(coverage: Coverage, world: tuple[Store, Measured]) -> None:
    _, measured = world
    rows = score_responses(measured.responses, tolerance=0.16).rows
    expected = [row.score for row in rows if (row.kind, row.filter) == ("adversarial", "pulse")]
    assert [score.score for score in coverage.scores] == expected


def test_draws_of_random_are_averaged(coverage: Coverage) -> None:
    shares = coverage.shares[:, RETRAINING.rules.index("random")]
    assert set(np.round(3 * shares, 9)) <= {0, 1, 2, 3}
    assert coverage.num_draws == (1, 1, 1, 3, 1)
    assert 0 < coverage.trained[3] <= coverage.trained[0]


def test_pulses_are_shares_of_live_weights(world: tuple[Store, Measured]) -> None:
    store, measured = world
    spec = replace(RETRAINING, granularity="weights", rules=("robust_antifragile", "fragile", "all_with_bn"))
    found = cover(store, spec, measured)
    units = pulse_units(measured.responses, spec)
    for row, layer in enumerate(lanes.LAYERS):
        own = [unit for unit in units if unit.layer == layer]
        robust = sum(unit.num_live for unit in own if unit.call in ("robust", "antifragile"))
        assert found.shares[row, 0] == robust / sum(unit.num_live for unit in own)
    assert np.all(found.shares[:, 2] == 1)
    assert found.scores == ()
    assert 0 < found.shares[:, 0].min() < 1


@pytest.mark.parametrize("dark", [False, True])
def test_the_chart_marks_what_is_trained(coverage: Coverage, dark: bool) -> None:
    figure = coverage_chart(coverage, dark=dark)
    said = texts(sent(figure))
    assert said.count("●") == int((coverage.shares == 1).sum()) > 4
    assert "nothing" in said
    assert "not known" in said
    assert [f"<b>{rule}</b>" for rule in RETRAINING.rules] == list(figure.layout.xaxis.ticktext[1:])
    [heat] = traces(figure, "heatmap")
    assert np.array_equal(np.isfinite(np.array(heat.z)), coverage.shares > 0)
    assert "conv1" in heat.text[0][0]
    assert "54 live weights" in heat.text[0][0]
    assert "frozen" in heat.text[0][1]  # nothing is antifragile
    assert coverage_alt(coverage) == (
        f"Chart of 4 layers by 5 rules. robust_antifragile trains {coverage.num_layers('robust_antifragile')}; "
        "antifragile: nothing is called antifragile; "
        f"all trains 4; random trains {coverage.num_layers('random')}; least_critical: {NOT_KNOWN}."
    )


def test_a_part_of_a_layer_is_a_percentage(coverage: Coverage) -> None:
    shares = coverage.shares.copy()
    shares[0, 0], shares[1, 0] = 0.354, 0.001
    said = texts(sent(coverage_chart(replace(coverage, shares=shares, scores=()))))
    assert "35" in said
    assert "1" in said
    assert any("35% of its live weights trained" in own for own in said)


# Curves ---------------------------------------------------------------------------------------------------


def line(figure: Any, name: str, panel: int) -> Any:
    """The curve of a rule in a panel, counted from 0."""
    axis = "x" if panel == 0 else f"x{panel + 1}"
    [found] = [own for own in traces(figure, "scatter") if own.name == name and own.xaxis == axis]
    return found


@pytest.mark.parametrize("dark", [False, True])
def test_curves_are_the_accuracies_of_every_epoch(dark: bool) -> None:
    retraining = make_retraining()
    figure = retraining_figure(compare_epochs([retraining]), dark=dark)
    sent(figure)
    for panel, kind in enumerate(JUDGED):
        expected = [retraining.before, *(own.judgement for own in retraining.of_rule("all")[0].epochs)]
        curve = line(figure, "all", panel)
        assert list(curve.x) == [0, 1, 2]
        assert list(curve.y) == pytest.approx([own.accuracy(kind) for own in expected])
        estimate = compare([retraining]).row("all").accuracy[kind]  # type: ignore[union-attr]
        low, high, about = curve.customdata[2]
        assert (low, high) == (estimate.low, estimate.high)
        assert about == "95 % over images, n = 200, ε = 2/255"
        assert set(line(figure, "no retraining", panel).y) == {retraining.before.accuracy(kind)}
    assert figure.layout.xaxis.ticktext[0] == "before"
    assert sum(own.fill == "tonexty" for own in traces(figure, "scatter")) == 4 * 3
    assert sum(bool(own.showlegend) for own in traces(figure, "scatter")) == 4


def test_every_rule_looks_different_and_only_few_have_bands() -> None:
    spec = replace(SPEC, rules=tuple(RULES), num_draws=2)
    others = {
        rule: replace(own, choice=replace(own.choice, rule=rule))
        for rule in RULES
        for own in [make_retraining().of_rule("all")[0]]
    }
    rules = {rule: own for rule, own in others.items() if rule not in ("robust_antifragile", "all", "random")}
    figure = retraining_figure(compare_epochs([make_retraining(spec=spec, **rules)]))
    looks = {rule: line(figure, rule, 0) for rule in RULES}
    assert len(RULES) > MOST_BANDS
    assert len({(own.line.color, own.line.dash, own.marker.symbol) for own in looks.values()}) == len(RULES)
    assert len({own.marker.symbol for own in looks.values()}) == len(RULES)
    assert sum(own.fill == "tonexty" for own in traces(figure, "scatter")) == 4 * 2


def test_seeds_are_dots_and_the_axis_stays_with_accuracies() -> None:
    found = [make_retraining(seed) for seed in (0, 1)]
    figure = retraining_figure(compare_epochs(found))
    dots = [own for own in traces(figure, "scatter") if own.mode == "markers" and own.legendgroup == "all"]
    assert len(dots) == 4
    assert list(dots[0].y)[-2:] == [own.of_rule("all")[0].epochs[-1].judgement.accuracy("clean") for own in found]
    low, high = figure.layout.yaxis.range
    assert -0.1 < low < high < 1.1
    assert not [own for own in traces(retraining_figure(compare_epochs(found[:1])), "scatter") if own.mode == "markers"]


def unfinished(retraining: Retraining) -> Retraining:
    """One whose second rule has had one epoch only."""
    rules = [replace(own, epochs=own.epochs[:1]) if own.choice.rule == "all" else own for own in retraining.rules]
    return replace(retraining, rules=tuple(rules))


def test_what_is_not_that_far_ends_where_it_is_and_what_chose_nothing_is_not_drawn() -> None:
    retraining = unfinished(make_retraining(robust_antifragile=nothing("robust_antifragile")))
    comparisons = compare_epochs([retraining])
    figure = retraining_figure(comparisons)
    assert list(line(figure, "all", 0).x) == [0, 1]
    assert "robust_antifragile" not in {own.name for own in traces(figure, "scatter")}
    alt = retraining_alt(comparisons)
    assert alt.startswith("Clean, FGSM, PGD and transfer accuracy over 2 epochs of retraining, n = 200.")
    assert "random 0.5" in alt
    assert "all" not in alt.partition("after: ")[2]


def test_many_epochs_have_few_ticks() -> None:
    comparisons = compare_epochs([make_retraining(spec=replace(SPEC, budget=40))])
    figure = retraining_figure(comparisons)
    assert list(figure.layout.xaxis.tickvals) == [0, 8, 16, 24, 32, 40]


def of_epoch(epoch: int, epsilon: float) -> Retraining:
    measurement = replace(SPEC.measurement, epoch=epoch)
    return replace(make_retraining(epoch, replace(SPEC, measurement=measurement)), epsilon=epsilon)


def test_checkpoints_stand_at_their_epochs_with_their_own_epsilon() -> None:
    found = [of_epoch(epoch, epsilon) for epoch, epsilon in ((3, 2 / 255), (10, 4 / 255))]
    comparisons = [compare([own]) for own in found]
    figure = checkpoints_figure(comparisons)
    sent(figure)
    curve = line(figure, "all", 1)
    assert list(curve.x) == [3, 10]
    assert list(curve.y) == pytest.approx(
        [own.of_rule("all")[0].epochs[-1].judgement.accuracy("fgsm") for own in found]
    )
    assert ["ε = 2/255" in curve.customdata[0][2], "ε = 4/255" in curve.customdata[1][2]] == [True, True]
    assert not any("ε" in own.text for own in figure.layout.annotations)
    same = checkpoints_figure([comparisons[0], compare([of_epoch(10, 2 / 255)])])
    assert sum("ε = 2/255" in own.text for own in same.layout.annotations) == 2
    assert "epoch 3: robust_antifragile 0.700" in checkpoints_alt(comparisons)
