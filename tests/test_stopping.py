"""Stopping when the calls are decided: valid however often one looks, and worth it where the answer is clear."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import bars
import numpy as np
import pytest

from fss_core.flow import Flow, Measured, find_measured
from fss_core.intervals import Bet, Estimand
from fss_core.responses import LayerFacts, LayerResponse, Predictions, Responses
from fss_core.scores import calls_are_decided, score_responses
from fss_core.specs import IMAGES_PER_LOOK, MeasurementSpec, ResponseSpec, ScoreSpec, TrainingSpec, filter_rows
from fss_core.store import Store

TOLERANCE, CHANCE, ACCURACY = 0.05, 0.1, 0.8
LOOKS = range(IMAGES_PER_LOOK, 501, IMAGES_PER_LOOK)


def sample(rng: np.random.Generator, score: float, num_images: int) -> tuple[np.ndarray, np.ndarray]:
    """Images of a network whose true score is known: some right images turn wrong, or the reverse."""
    z = (rng.random(num_images) < ACCURACY).astype(np.float64)
    shift = score * (ACCURACY - CHANCE)
    hit = rng.random(num_images) < abs(shift) / (ACCURACY if shift < 0 else 1 - ACCURACY)
    q = np.where(hit & (z == (shift < 0)), 1 - z, z)
    return q, z


def ever(score: float, side: str, *, boundary: float, repetitions: int) -> float:
    """How often, of many runs with a look every few images, a bet ever shows the score to be beyond the boundary."""
    rng = np.random.default_rng(1)
    estimand = Estimand(chance=CHANCE, reference=1.0)
    count = 0
    for _ in range(repetitions):
        q, z = sample(rng, score, LOOKS[-1])
        bets = (Bet(estimand, q[:n], z[:n], 0.95) for n in LOOKS)
        count += any(getattr(bet, side)(boundary) for bet in bets)
    return count / repetitions


def test_sampled_images_have_the_score_they_should() -> None:
    q, z = sample(np.random.default_rng(0), -0.3, 200_000)
    assert Estimand(chance=CHANCE, reference=1.0).estimate(q, z) == pytest.approx(-0.3, abs=0.01)


@pytest.mark.parametrize(
    ("score", "side", "boundary"),
    [(-TOLERANCE, "excludes_as_too_high", -TOLERANCE), (TOLERANCE, "excludes_as_too_low", TOLERANCE)],
)
def test_a_score_on_the_boundary_is_seldom_called_beyond_it(score: float, side: str, boundary: float) -> None:
    # 2.5 % a side, plus three standard errors of the simulation.
    repetitions = 600
    allowed = 0.025 + 3 * np.sqrt(0.025 * 0.975 / repetitions)
    assert ever(score, side, boundary=boundary, repetitions=repetitions) <= allowed


def test_a_clearly_fragile_score_is_decided_almost_always() -> None:
    assert ever(-0.3, "excludes_as_too_high", boundary=-TOLERANCE, repetitions=100) >= 0.95


def response(share_destroyed: float, num_images: int, *, total: int = 300) -> Responses:
    """One layer of which every filter turns a share of the images wrong at every threshold."""
    rng = np.random.default_rng(2)
    labels = rng.integers(0, 10, total)
    before = np.where(rng.random(total) < 0.9, labels, (labels + 1) % 10).astype(np.uint8)
    spec = ResponseSpec(num_thresholds=3)
    rows = filter_rows(spec.filters, spec.num_draws)
    shape = (len(rows), 3)
    after = np.where(rng.random(total) < share_destroyed, (labels + 2) % 10, before).astype(np.uint8)
    many = np.broadcast_to(after[:num_images], (*shape, num_images))
    facts = LayerFacts(
        name="layer",
        kind="3x3",
        relative_depth=0.0,
        num_weights=10,
        num_live=10,
        thresholds=np.linspace(-1, 1, 3),
        num_kept=np.full(shape, 5),
        num_live_kept=np.full(shape, 5),
        changes=np.ones(shape, dtype=np.bool_),
        histogram=np.zeros(200, dtype=np.int64),
        histogram_edges=np.zeros(201),
    )
    return Responses(
        spec=spec,
        attack=None,
        rows=rows,
        labels=labels,
        num_classes=10,
        unfiltered=Predictions(clean=before, adversarial=before),
        layers=(LayerResponse(facts=facts, predictions=Predictions(clean=many, adversarial=many)),),
        sequential=True,
    )


def test_a_destroyed_layer_needs_few_images_and_an_untouched_one_all() -> None:
    assert calls_are_decided(response(0.9, 100), ScoreSpec())
    assert not calls_are_decided(response(0.0, 250), ScoreSpec())


def test_stopping_agrees_with_the_calls_that_are_printed() -> None:
    for share in (0.0, 0.1, 0.2, 0.5, 0.9):
        seen = response(share, 150)
        rows = [row for row in score_responses(seen).rows if row.kind != "difference"]
        done = all(row.certainty == "decided" and row.call != "robust" for row in rows)
        assert calls_are_decided(seen, ScoreSpec()) == done


def test_deciding_all_together_takes_more_images() -> None:
    undecided = [
        share
        for share in np.linspace(0.05, 0.5, 20)
        if calls_are_decided(response(share, 100), ScoreSpec())
        and not calls_are_decided(response(share, 100), ScoreSpec(), num_layers=50, simultaneous=True)
    ]
    assert undecided


def test_scores_of_a_layer_that_stopped_say_how_many_images_it_saw() -> None:
    scores = score_responses(response(0.9, 100))
    assert {row.num_images for row in scores.rows} == {100}
    assert set(response(0.9, 100).to_dataframe()["num_images"]) == {100}


SPEC = MeasurementSpec(
    training=TrainingSpec(network=bars.NETWORK, dataset=bars.DATASET),
    epoch=bars.EPOCH,
    num_images=bars.NUM_PROBE,
    epsilon=0.1,
    response=ResponseSpec(num_thresholds=3),
)


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Store]:
    monkeypatch.setenv("FSS_CACHE_DIR", str(tmp_path))
    bars.make_cache(tmp_path)
    with Store() as store:
        yield store
    shutil.rmtree(tmp_path)


def measure(store: Store, **options: object) -> Measured:
    return Flow(store, factory=bars.make_network).measure(SPEC, **options)  # type: ignore[arg-type]


def stop_at_once(responses: Responses) -> bool:
    return responses.layers[0].facts.name == "conv"


def test_a_layer_that_may_stop_does_and_the_full_run_goes_on_from_there(store: Store) -> None:
    stopped = measure(store, stop=stop_at_once)
    assert {layer.facts.name: layer.num_images for layer in stopped.responses.layers} == {
        "conv": IMAGES_PER_LOOK,
        "fc": bars.NUM_PROBE,
    }
    assert stopped.responses.sequential
    incomplete = find_measured(store, SPEC)
    assert incomplete is not None
    assert incomplete.missing == ("conv",)

    full = measure(store)
    assert not full.responses.sequential
    assert [layer.num_images for layer in full.responses.layers] == [bars.NUM_PROBE] * 2
    first = full.responses.layers[0].predictions.images(0, IMAGES_PER_LOOK)
    np.testing.assert_array_equal(first.clean, stopped.responses.layers[0].predictions.clean)

    again = find_measured(store, replace(SPEC), stop=stop_at_once)
    assert again is not None
    assert not again.missing
