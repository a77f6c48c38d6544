"""Stopping when the calls are decided: what is said early is what all images say, and rarely wrong."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import bars
import numpy as np
import numpy.typing as npt
import pytest
from commands import Fss, refused
from test_scores import make_responses

from fss_core.archive import chunks
from fss_core.flow import Flow, archive_of, find_measured
from fss_core.intervals import Estimand, betting_interval
from fss_core.responses import Responses
from fss_core.scores import score_responses
from fss_core.specs import (
    SYNAPTIC_FILTERS,
    Cancelled,
    Filter,
    MeasurementSpec,
    NotMeasurableError,
    ResponseSpec,
    ScoreSpec,
    TrainingSpec,
)
from fss_core.stopping import IMAGES_PER_LOOK, Stop, Stopping, first_images, looks
from fss_core.store import Store

NUM_IMAGES, NUM_THRESHOLDS, TOLERANCE = 220, 5, 0.05
STOPPING = Stopping(spec=ScoreSpec(tolerance=TOLERANCE))
HALF = 0.975
"""At which level a bet and an interval are that are to hold both at 95 %."""

ONE_FILTER: tuple[Filter, ...] = ("high_pass",)


def layers_that(*does: str, right: float = 0.9, filters: tuple[Filter, ...] = SYNAPTIC_FILTERS) -> Responses:
    """Layers whose filtering destroys all, changes nothing, or destroys the clean accuracy alone."""
    rng = np.random.default_rng(0)
    unfiltered = rng.random((2, NUM_IMAGES)) < right
    clean = np.empty((len(does), len(filters), NUM_THRESHOLDS, NUM_IMAGES), dtype=bool)
    adversarial = np.empty_like(clean)
    for index, what in enumerate(does):
        clean[index] = unfiltered[0] & (what == "nothing")
        adversarial[index] = unfiltered[1] & (what != "destroys")
    return make_responses(clean, adversarial, unfiltered, filters=filters)


def on_first(responses: Responses, number: int) -> Responses:
    """The same, as if every layer had stopped after so many images."""
    return replace(responses, layers=tuple(first_images(responses, own, number).layers[0] for own in responses.layers))


def settled(responses: Responses, stopping: Stopping = STOPPING, num_layers: int | None = None) -> list[bool]:
    number = len(responses.layers) if num_layers is None else num_layers
    return [stopping.is_settled(responses, layer, number) for layer in responses.layers]


# When a layer stops ---------------------------------------------------------------------------------------


def test_all_images_are_the_last_look_whatever_their_number() -> None:
    assert looks(30) == (30,)
    assert looks(IMAGES_PER_LOOK) == (IMAGES_PER_LOOK,)
    assert looks(2 * IMAGES_PER_LOOK + 1) == (IMAGES_PER_LOOK, 2 * IMAGES_PER_LOOK, 2 * IMAGES_PER_LOOK + 1)


def test_a_layer_stops_when_every_cell_has_and_one_robust_cell_is_enough_to_go_on() -> None:
    responses = layers_that("destroys", "nothing", "destroys clean")
    assert settled(on_first(responses, IMAGES_PER_LOOK)) == [True, False, False]
    assert settled(responses) == [True, False, False]
    stops = STOPPING.stops(responses, responses.layers[2], 3)
    assert {kind: stop and stop.call for (_, kind), stop in stops.items()} == {"clean": "fragile", "adversarial": None}
    assert stops["mean", "clean"] == Stop(num_images=IMAGES_PER_LOOK, call="fragile")


def test_what_has_no_score_asks_for_no_image() -> None:
    responses = layers_that("destroys", "nothing")
    dead = replace(
        responses,
        layers=tuple(
            replace(own, facts=replace(own.facts, changes=np.zeros_like(own.facts.changes))) for own in responses.layers
        ),
    )
    assert settled(on_first(dead, IMAGES_PER_LOOK)) == [True, True]
    assert set(STOPPING.stops(dead, dead.layers[0], 2).values()) == {Stop(num_images=0, call=None)}
    assert settled(on_first(layers_that("nothing", right=0.1), IMAGES_PER_LOOK)) == [True]


def test_too_few_images_to_lose_anything_stop_nothing() -> None:
    """A quarter is right: after 50 images fewer than twenty are, though a bet would have won by then."""
    responses = layers_that("destroys", right=0.25)
    number = next(n for n in looks(NUM_IMAGES) if settled(on_first(responses, n))[0])
    assert number > IMAGES_PER_LOOK
    own = first_images(responses, responses.layers[0], number)
    assert (own.unfiltered.clean == own.labels).sum() >= 20


def test_all_calls_together_take_more_images_than_each_by_itself() -> None:
    rng = np.random.default_rng(1)
    unfiltered = rng.random((2, NUM_IMAGES)) < 0.9
    kept = rng.random((1, 1, NUM_THRESHOLDS, NUM_IMAGES)) < 0.7
    responses = make_responses(unfiltered[0] & kept, unfiltered[1] & kept, unfiltered, filters=ONE_FILTER)
    together = replace(STOPPING, simultaneous=True)

    def first(stopping: Stopping, num_layers: int) -> int:
        return next(n for n in looks(NUM_IMAGES) if settled(on_first(responses, n), stopping, num_layers)[0])

    assert first(STOPPING, 1) == first(STOPPING, 1000) < first(together, 1000)
    assert together.score(responses).level_per_score == pytest.approx(1 - 0.05 / 3)


# What is said of it ---------------------------------------------------------------------------------------


def test_a_layer_that_stopped_is_scored_on_its_own_images_with_an_interval_that_holds_at_any_time() -> None:
    responses = layers_that("destroys", "nothing")
    one, other = on_first(responses, 100).layers[0], responses.layers[1]
    scores = STOPPING.score(replace(responses, layers=(one, other)))
    rows = {(row.layer, row.filter, row.kind): row for row in scores.rows}
    own = rows["layer0", "mean", "clean"]
    z = (responses.unfiltered.clean == responses.labels)[:100].astype(float)
    assert (own.num_images, own.call, own.certainty) == (100, "fragile", "decided")
    assert own.score == pytest.approx((0 - 0.1) / (z.mean() - 0.1) - 1)
    bet = betting_interval(Estimand(chance=0.1, reference=1.0), np.zeros(100), z, HALF)
    assert (own.low, own.high) == pytest.approx(bet)
    assert rows["layer0", "mean", "difference"].num_images == 100
    whole = {(row.layer, row.filter, row.kind): row for row in score_responses(responses, level=HALF).rows}
    assert all(row == whole[place] for place, row in rows.items() if place[0] == "layer1")
    (note,) = scores.cautions
    assert "1 of 2 layers did before the last image, 72.7% of all images were used" in note
    assert "wrong with probability 0.05 at most, each by itself" in note


def test_all_images_are_scored_as_ever_and_a_call_that_was_decided_stays_decided() -> None:
    """The filter destroys what comes first and nothing that comes after: all images leave it undecided."""
    responses = layers_that("nothing", filters=ONE_FILTER)
    layer = responses.layers[0]
    wrong = layer.predictions.clean.copy()
    wrong[..., :48] = (responses.labels[:48] + 1) % 10
    turned = replace(responses, layers=(replace(layer, predictions=replace(layer.predictions, clean=wrong)),))
    strict = Stopping(spec=ScoreSpec(tolerance=0.2))
    whole = score_responses(turned, tolerance=0.2, level=HALF).rows
    said = strict.score(turned).rows
    assert [row.certainty for row in whole if row.kind == "clean"] == ["leaning"]
    (clean,) = (row for row in said if row.kind == "clean")
    assert (clean.call, clean.certainty, clean.num_images) == ("fragile", "decided", IMAGES_PER_LOOK)
    assert [row for row in said if row.kind != "clean"] == [row for row in whole if row.kind != "clean"]


def test_what_all_images_cannot_measure_is_not_measurable_on_fewer() -> None:
    responses = on_first(layers_that("destroys", right=0.1), IMAGES_PER_LOOK)
    rows = STOPPING.score(responses).rows
    assert {row.certainty for row in rows} == {"not measurable"}
    assert {row.num_images for row in rows} == {NUM_IMAGES}


@pytest.mark.parametrize(("truth", "tolerance"), [(-0.05, 0.05), (0.05, 0.05), (0.0, 0.0), (0.01, 0.01)])
def test_calls_and_intervals_are_wrong_in_less_than_five_percent_where_that_is_likeliest(
    truth: float, tolerance: float
) -> None:
    """At ±η exactly a layer is robust: whoever decides otherwise, early or at the end, is wrong."""
    num_samples, num_images, accuracy = 400, 300, 0.7
    rng = np.random.default_rng(7)
    change = truth * (accuracy - 0.1)  # of accuracy at every threshold, so that the score is the truth
    lost, gained = 0.15 - min(change, 0), 0.15 + max(change, 0)
    unfiltered = rng.random((2, num_samples, num_images)) < accuracy
    luck = rng.random((2, num_samples, 1, 1, num_images))
    after = np.where(unfiltered[:, :, None, None], luck >= lost / accuracy, luck < gained / (1 - accuracy))
    after = np.broadcast_to(after, (2, num_samples, 1, 2, num_images))
    stopping = Stopping(spec=ScoreSpec(tolerance=tolerance))
    wrong: list[bool] = []
    missed: list[bool] = []
    early = 0
    for index in range(num_samples):
        responses = make_responses(after[0, [index]], after[1, [index]], unfiltered[:, index], filters=ONE_FILTER)
        stops = stopping.stops(responses, responses.layers[0], 1)
        early += sum(stop is not None and stop.num_images < num_images for stop in stops.values())
        used = max(num_images if stop is None else stop.num_images for stop in stops.values())
        rows = [row for row in stopping.score(on_first(responses, used)).rows if row.kind != "difference"]
        wrong += [row.certainty == "decided" and row.call != "robust" for row in rows]
        missed += [not (row.low or 0) <= truth <= (row.high or 0) for row in rows]
    assert 0 < np.mean(wrong) <= 0.05  # a risk, not an impossibility
    assert np.mean(missed) <= 0.05
    assert early


# Measuring it ---------------------------------------------------------------------------------------------

SPEC = MeasurementSpec(
    training=TrainingSpec(network=bars.NETWORK, dataset=bars.DATASET),
    epoch=bars.EPOCH,
    num_images=bars.NUM_PROBE,
    epsilon=0.02,
    response=ResponseSpec(filters=("low_pass",), num_thresholds=NUM_THRESHOLDS),
)
USED = {"conv": IMAGES_PER_LOOK, "fc": 2 * IMAGES_PER_LOOK}
"""Images after which each layer stops, of 120: the second has a cell that takes two looks."""


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return bars.make_template(tmp_path_factory)


def predictions_of(responses: Responses, kind: str = "clean") -> dict[str, npt.NDArray[np.unsignedinteger]]:  # type: ignore[type-arg]
    return {own.facts.name: getattr(own.predictions, kind) for own in responses.layers}


def test_layers_stop_and_measuring_all_images_goes_on_from_there(cache: Path) -> None:
    with Store() as store:
        flow = Flow(store, factory=bars.make_network)
        found = flow.measure(SPEC, stopping=STOPPING)
        assert {own.facts.name: own.predictions.num_images for own in found.responses.layers} == USED
        assert found.responses.num_images == bars.NUM_PROBE
        archive = archive_of(store, SPEC, found.checkpoint, found.card, SPEC.attack(0.02))
        pieces = {
            name: [archive.predictions(name, "low_pass", chunk) for chunk in chunks(bars.NUM_PROBE)] for name in USED
        }
        stored = {name: sum(0 if own is None else own.num_images for own in parts) for name, parts in pieces.items()}
        assert stored == USED
        part = find_measured(store, SPEC)
        assert part is not None
        assert part.missing == bars.LAYERS
        assert archive.num_images() == archive.num_images(stopping=True) == bars.NUM_PROBE  # not where a layer stopped
        whole = flow.measure(SPEC)
        for kind in ("clean", "adversarial"):
            full = predictions_of(whole.responses, kind)
            for name, own in predictions_of(found.responses, kind).items():
                np.testing.assert_array_equal(own, full[name][..., : USED[name]])
        early = {(row.layer, row.kind): row for row in STOPPING.score(found.responses).rows}
        for row in score_responses(whole.responses).rows:
            assert early[row.layer, row.kind].num_images == USED[row.layer]
            if row.kind != "difference":
                assert (early[row.layer, row.kind].call, row.call) == ("fragile", "fragile")
        again = flow.measure(SPEC, stopping=STOPPING)
        assert {own.predictions.num_images for own in again.responses.layers} == {bars.NUM_PROBE}
        assert archive.num_images() == bars.NUM_PROBE


def test_a_layer_that_stopped_hides_nothing_of_the_others(cache: Path) -> None:
    """One layer is measured on 110 images, the other stops at 50: 110 were asked for."""
    spec = replace(SPEC, num_images=110)
    with Store() as store:
        flow = Flow(store, factory=bars.make_network)
        whole = flow.measure(spec, layers=["fc"])
        flow.measure(spec, layers=["conv"], stopping=STOPPING)
        found = find_measured(store, spec, every_image=True)
        assert found is not None
        assert (found.responses.num_images, found.missing) == (110, ("conv",))
        np.testing.assert_array_equal(
            found.responses.layers[0].predictions.clean, whole.responses.layers[0].predictions.clean
        )
        # Nor does a filter by itself, or another rule, make a number of the one at which a layer stopped.
        one = replace(spec, response=replace(spec.response, filters=("high_pass",)))
        flow.measure(one)
        other = Stopping(spec=ScoreSpec(reference="retained"))
        flow.measure(spec, stopping=other)
        archive = archive_of(store, spec, found.checkpoint, found.card, spec.attack(0.02))
        assert archive.num_images() == 110
        flow.measure(SPEC, layers=["fc"])
        assert archive.num_images() == bars.NUM_PROBE  # asked for, and complete in as many layers as 110 are
        assert archive.num_images(stopping=True) == 110


def test_what_is_stopped_is_looked_up_and_what_was_interrupted_goes_on(cache: Path) -> None:
    with Store() as store:
        with pytest.raises(Cancelled):
            Flow(store, factory=bars.make_network, should_stop=bars.stop_after(12)).measure(SPEC, stopping=STOPPING)
        first = Flow(store, factory=bars.make_network).measure(SPEC, stopping=STOPPING)
        told: list[object] = []
        again = Flow(store, factory=bars.make_network, on_progress=told.append).measure(SPEC, stopping=STOPPING)
        assert told == []
        for name, own in predictions_of(again.responses).items():
            np.testing.assert_array_equal(own, predictions_of(first.responses)[name])


# The command ----------------------------------------------------------------------------------------------

OWN = ["--network", bars.NETWORK, "--dataset", bars.DATASET, "--epoch", bars.EPOCH, "--thresholds", NUM_THRESHOLDS]
HOW = ["--epsilon", "0.02", "--effort", "labels", "--filters", "low_pass"]
SCORE = ["score", *OWN, "--images", bars.NUM_PROBE, "--factory", bars.FACTORY, *HOW]


def test_the_command_prints_each_layer_s_images_and_what_the_rule_promises(cache: Path, fss: Fss) -> None:
    done = fss(*SCORE)
    assert done.code == 0, done.err
    assert "2 of 2 layers did before the last image, 62.5% of all images were used" in done.out
    assert "wrong with probability 0.05 at most" in done.out
    (header,) = (line for line in done.out.splitlines() if line.startswith("layer "))
    assert header.split()[-1] == "images"
    assert fss("show", *OWN, *HOW).out == done.out
    assert "nothing is measured yet" in refused(fss("show", *OWN, *HOW[:2], *HOW[4:]), 1)  # on all of the 120 images
    found = fss(*SCORE, "--json").json
    used = {own["layer"]: own["num_images"] for own in found["layers"]}
    assert used == USED
    assert found["num_images"] == bars.NUM_PROBE
    assert {(row["layer"], row["num_images"]) for row in found["scores"]} == set(USED.items())


def test_what_stopped_early_cannot_be_exported_nor_left_to_workers(cache: Path, fss: Fss) -> None:
    assert "leave --workers out" in refused(fss(*SCORE, "--workers", 2), 2)
    assert fss(*SCORE).code == 0
    assert "leave --effort labels out" in refused(fss("export", *OWN, *HOW, cache / "out"), 2)


def test_strict_refuses_what_is_not_measurable(cache: Path, fss: Fss) -> None:
    strict = refused(fss(*SCORE, "--epsilon", "0.9", "--strict"), 1, after_bars=True)
    assert "score of" in strict
    with pytest.raises(NotMeasurableError):
        score_responses(layers_that("nothing", right=0.1), strict=True)
