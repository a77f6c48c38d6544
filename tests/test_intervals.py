"""Intervals for scores: shown to cover by simulation, and never of zero width."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import reference
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from fss_core import scores
from fss_core.intervals import (
    FEWEST_CONTRIBUTING,
    Estimand,
    betting_interval,
    linear_interval,
    num_contributing,
    standard_error,
    student_half_width,
    wilson_interval,
)

Values = npt.NDArray[np.float64]

CHANCE_CORRECTED = Estimand(chance=0.1, reference=1.0)


# Wilson ---------------------------------------------------------------------------------------------------


@given(num_images=st.integers(1, 4000), share=st.floats(0, 1))
def test_wilson_is_the_reference(num_images: int, share: float) -> None:
    num_right = round(share * num_images)
    assert wilson_interval(num_right, num_images) == pytest.approx(reference.wilson(num_right, num_images), abs=1e-12)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.99])
@pytest.mark.parametrize(("num_right", "num_images"), [(0, 20), (7, 20), (150, 200), (200, 200)])
def test_wilson_is_scipy(num_right: int, num_images: int, level: float) -> None:
    expected = stats.binomtest(num_right, num_images).proportion_ci(level, method="wilson")
    assert wilson_interval(num_right, num_images, level) == pytest.approx((expected.low, expected.high), abs=1e-12)


# The linearised score -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "estimand",
    [
        CHANCE_CORRECTED,
        Estimand(chance=0.0, reference=0.6),
        Estimand(chance=0.0, reference=0.6, ratio=False),
        Estimand(chance=0.0, reference=1.0, ratio=False),
    ],
)
def test_influence_is_the_change_of_the_score_when_an_image_weighs_more(estimand: Estimand) -> None:
    rng = np.random.default_rng(0)
    z = (rng.random(40) < 0.8).astype(float)
    q = np.clip(z * rng.random(40) + 0.1, 0, 1)
    weight = 1e-7
    for image in range(5):
        heavier = np.full(40, (1 - weight) / 40)
        heavier[image] += weight
        moved = estimand.estimate(np.array([heavier @ q]), np.array([heavier @ z]))
        slope = (moved - estimand.estimate(q, z)) / weight
        assert estimand.influence(q, z)[image] == pytest.approx(slope, abs=1e-5)


@pytest.mark.parametrize("degrees", [*range(1, 40), 99, 100, 299, 999, 1000, 9_999, 60_000])
def test_student_s_t_is_scipy_s(degrees: int) -> None:
    for level in (0.1, 0.5, 0.8, 0.9, 0.95, 0.99, 1 - 0.05 / 57, 1 - 0.05 / 684, 1 - 1e-6, 0.9999999):
        expected = stats.t.ppf((1 + level) / 2, degrees)
        assert student_half_width(level, degrees) == pytest.approx(expected, rel=1e-6 if level > 0.9999 else 1e-9)


@pytest.mark.parametrize("level", [0.0, 1 - 1e-8, 1.0, float("nan")])
def test_a_level_beyond_what_can_be_said_is_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"^level must lie in \(0, 0\.9999999\], got "):
        student_half_width(level, 9)


@given(level=st.floats(0.001, 0.9999), degrees=st.integers(1, 2000))
def test_student_s_t_holds_its_level(level: float, degrees: int) -> None:
    half = student_half_width(level, degrees)
    assert 1 - 2 * stats.t.sf(half, degrees) == pytest.approx(level, abs=1e-12)
    assert student_half_width(level, degrees + 1) < half


def test_standard_error_of_a_mean_is_the_textbooks() -> None:
    rng = np.random.default_rng(1)
    q = rng.random(50)
    estimand = Estimand(chance=0.0, reference=0.0, ratio=False)
    influence = estimand.influence(q, np.ones(50))
    assert standard_error(influence) == pytest.approx(stats.sem(q))
    expected = stats.t.interval(0.9, 49, loc=q.mean(), scale=stats.sem(q))
    assert linear_interval(estimand.estimate(q, np.ones(50)), influence, 0.9, 50) == pytest.approx(expected)


def test_standard_error_agrees_with_resampling_images() -> None:
    rng = np.random.default_rng(2)
    z = (rng.random(300) < 0.7).astype(float)
    q = np.where(rng.random(300) < 0.4, rng.random(300), z)
    means = [
        CHANCE_CORRECTED.estimate(q[chosen], z[chosen]) for chosen in (rng.integers(0, 300, 300) for _ in range(4000))
    ]
    assert standard_error(CHANCE_CORRECTED.influence(q, z)) == pytest.approx(np.std(means), rel=0.05)


def test_one_image_says_nothing() -> None:
    assert standard_error(np.zeros(1)) == float("inf")


# Which interval -------------------------------------------------------------------------------------------


def test_images_that_contribute_are_those_that_changed() -> None:
    z = np.ones(50)
    q = np.where(np.arange(50) < 7, 0.5, 1.0)
    assert num_contributing(q, z, q != z) == 7
    assert num_contributing(z, z, np.zeros(50, dtype=bool)) == 0


def test_images_that_all_changed_alike_contribute_nothing() -> None:
    """Every image lost the same: the sample has no variance although all of it changed."""
    z, q = np.ones(50), np.full(50, 0.25)
    assert num_contributing(q, z, np.ones(50, dtype=bool)) == 0


# Bets -----------------------------------------------------------------------------------------------------


@given(
    num_images=st.integers(20, 120),
    seed=st.integers(0, 1000),
    rate=st.sampled_from([0.0, 0.02, 0.1, 0.5]),
    ratio=st.booleans(),
    reference_curve=st.sampled_from([1.0, 0.5]),
)
@settings(max_examples=60, deadline=None)
def test_a_betting_interval_holds_the_estimate_has_width_and_forgets_the_order(
    num_images: int, seed: int, rate: float, ratio: bool, reference_curve: float
) -> None:
    rng = np.random.default_rng(seed)
    z = (np.arange(num_images) >= num_images // 5).astype(float)
    q = np.where(rng.random(num_images) < rate, rng.integers(0, 13, num_images) / 12, z)
    estimand = Estimand(chance=0.1 if ratio else 0.0, reference=reference_curve, ratio=ratio)
    low, high = betting_interval(estimand, q, z, 0.95)
    assert low < estimand.estimate(q, z) < high
    assert np.isfinite([low, high]).all()
    order = rng.permutation(num_images)
    assert betting_interval(estimand, q[order], z[order], 0.95) == pytest.approx((low, high), abs=1e-9)


def test_a_higher_level_and_fewer_images_make_a_bet_wider() -> None:
    z = np.ones(100)
    q = np.where(np.arange(100) < 3, 0.0, 1.0)
    (low, high), (lower, higher) = (betting_interval(CHANCE_CORRECTED, q, z, level) for level in (0.95, 0.99))
    assert lower < low < high < higher
    few, many = (np.subtract(*betting_interval(CHANCE_CORRECTED, np.tile(q, n), np.tile(z, n), 0.95)) for n in (1, 4))
    assert abs(many) < 0.6 * abs(few)


# Coverage -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Population:
    """Images of which a share changes: the filtered networks are then wrong (or right) at some of 13 thresholds."""

    share_changed: float
    clean_accuracy: float = 0.9
    adversarial_accuracy: float = 0.6
    most_lost: int = 12

    def draw(self, rng: np.random.Generator, num_images: int, num_samples: int) -> tuple[Values, Values]:
        """q and z, each of shape (samples, clean and adversarial, images)."""
        luck = rng.random((num_samples, 1, num_images))
        accuracies = np.array([self.clean_accuracy, self.adversarial_accuracy])[:, None]
        z = (luck < accuracies).astype(float)  # an image that is right when attacked is right when clean
        changed = rng.random((num_samples, 1, num_images)) < self.share_changed
        lost = rng.integers(1, self.most_lost + 1, (num_samples, 2, num_images)) / 13
        return np.where(changed, np.abs(z - lost), z), z

    def true_means(self) -> tuple[Values, Values]:
        z = np.array([self.clean_accuracy, self.adversarial_accuracy])
        lost = (1 + self.most_lost) / 2 / 13
        return z + self.share_changed * lost * (1 - 2 * z), z


ESTIMANDS = {
    "chance": CHANCE_CORRECTED,
    "retained": Estimand(chance=0.1, reference=0.6),
    "points": Estimand(chance=0.0, reference=1.0, ratio=False),
}
PARTS = {"clean": ((1, 0),), "adversarial": ((1, 1),), "difference": ((1, 1), (-1, 0))}


def estimate(estimand: Estimand, kind: str, q: Values, z: Values) -> tuple[float, float]:
    parts = [
        (sign, scores.Curve(estimand=estimand, q=q[row], z=z[row], changed=q[row] != z[row]))
        for sign, row in PARTS[kind]
    ]
    return scores.estimate_parts(parts, 0.95)[2]


def true_score(estimand: Estimand, kind: str, population: Population) -> float:
    q, z = population.true_means()
    return sum(sign * estimand.estimate(q[[row]], z[[row]]) for sign, row in PARTS[kind])


def check_coverage(population: Population, estimand: str, kind: str, num_images: int, num_samples: int) -> None:
    rng = np.random.default_rng([num_images, int(1e4 * population.share_changed)])
    truth = true_score(ESTIMANDS[estimand], kind, population)
    intervals = np.array(
        [
            estimate(ESTIMANDS[estimand], kind, q, z)
            for q, z in zip(*population.draw(rng, num_images, num_samples), strict=True)
        ]
    )
    assert (intervals[:, 1] - intervals[:, 0]).min() > 1e-3
    covered = ((intervals[:, 0] <= truth) & (truth <= intervals[:, 1])).mean()
    simulation_error = 2.5 * np.sqrt(0.95 * 0.05 / num_samples)
    assert covered >= 0.95 - simulation_error


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("num_images", [100, 300])
@pytest.mark.parametrize(("num_changed", "num_samples"), [(1, 60), (5, 120), (10, 300), (20, 1500), (50, 1500)])
def test_coverage_where_few_or_many_images_change(
    num_changed: int, num_samples: int, num_images: int, kind: str
) -> None:
    check_coverage(Population(share_changed=num_changed / num_images), "chance", kind, num_images, num_samples)


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("num_images", [100, 300])
def test_coverage_where_most_images_change(num_images: int, kind: str) -> None:
    check_coverage(Population(share_changed=0.8), "chance", kind, num_images, 1500)


@pytest.mark.parametrize("kind", PARTS)
@pytest.mark.parametrize("num_images", [100, 300])
def test_coverage_where_no_image_changes(num_images: int, kind: str) -> None:
    check_coverage(Population(share_changed=0.0), "chance", kind, num_images, 30)


@pytest.mark.parametrize("estimand", ["retained", "points"])
@pytest.mark.parametrize("kind", ["adversarial", "difference"])
@pytest.mark.parametrize("share_changed", [0.1, 0.7])
def test_coverage_of_other_scores(estimand: str, kind: str, share_changed: float) -> None:
    check_coverage(Population(share_changed=share_changed), estimand, kind, 200, 1000)


def test_the_simulation_would_notice_intervals_of_90_percent(monkeypatch: pytest.MonkeyPatch) -> None:
    def narrower(score: float, influence: Values, level: float, num_contributing: int) -> tuple[float, float]:
        return linear_interval(score, influence, 0.9, num_contributing)

    monkeypatch.setattr(scores, "linear_interval", narrower)
    with pytest.raises(AssertionError):
        check_coverage(Population(share_changed=0.5), "chance", "difference", 100, 1500)


def test_few_changes_take_the_bet() -> None:
    assert FEWEST_CONTRIBUTING == 10
    q, z = Population(share_changed=0.02).draw(np.random.default_rng(0), 100, 1)
    low, high = estimate(CHANCE_CORRECTED, "clean", q[0], z[0])
    assert (low, high) == betting_interval(CHANCE_CORRECTED, q[0, 0], z[0, 0], 0.95)
