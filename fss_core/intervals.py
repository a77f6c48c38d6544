"""Intervals for scores: smooth functions of per-image means, with few images or many contributing.

A score is made of two values per image, q (the mean, over thresholds, of whether the filtered networks got it right)
and z (whether the unfiltered network did). Where many images contribute, its interval comes from the linearised
score. Where fewer than :data:`FEWEST_CONTRIBUTING` do, the normal approximation fails (with none it has zero width),
and the interval comes from a bet: a score s is kept as long as no gambler grows rich on the mean of a bounded
quantity being zero, as it must be if s were true.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]

FEWEST_CONTRIBUTING = 10
"""Images that must contribute before the linearised interval is used."""

MARGIN_ABOVE_CHANCE = 0.02
"""How far the lower bound of an unfiltered accuracy must lie above chance."""

_STAKES = np.array([1.0, 0.8, 0.6, 0.4, 0.2, 0.1])
"""Shares of the largest stake that can never ruin the gambler; the capital is split evenly between them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimand:
    """Which function of the means of q and z a score is.

    Attributes:
        chance: c, subtracted from both means in a ratio.
        reference: B, the integral of the reference curve.
        ratio: True for (mean q − c) / (mean z − c) − B, False for mean q − B · mean z.
    """

    chance: float
    reference: float
    ratio: bool = True

    def estimate(self, q: Values, z: Values) -> float:
        """Compute the score from per-image values (N,)."""
        return float(self.of_means(q.mean(), z.mean()))

    def of_means(self, q: Values, z: Values) -> Values:
        """Compute scores from means of per-image values, of any one shape."""
        if self.ratio:
            return np.asarray((q - self.chance) / (z - self.chance) - self.reference)
        return np.asarray(q - self.reference * z)

    def influence(self, q: Values, z: Values) -> Values:
        """Compute each image's share in the score's error, (N,), of mean zero (the delta method)."""
        if self.ratio:
            slope = (q.mean() - self.chance) / (z.mean() - self.chance)
            return np.asarray(((q - q.mean()) - slope * (z - z.mean())) / (z.mean() - self.chance))
        return np.asarray((q - q.mean()) - self.reference * (z - z.mean()))

    def pivot(self, scores: Values, q: Values, z: Values) -> Values:
        """Compute values (S, N) whose expectation is zero where the score (S,) is the true one, and falls with it."""
        if self.ratio:
            return np.asarray((q - self.chance) - np.multiply.outer(scores + self.reference, z - self.chance))
        return np.asarray(np.subtract.outer(-scores, self.reference * z - q))

    def pivot_bounds(self, scores: Values) -> tuple[Values, Values]:
        """Compute the least and the most, (S,), that :meth:`pivot` can be, for q in [0, 1] and z in {0, 1}."""
        corners = self.pivot(scores, np.array([0.0, 1.0, 0.0, 1.0]), np.array([0.0, 0.0, 1.0, 1.0]))
        return corners.min(axis=1), corners.max(axis=1)


def wilson_interval(num_right: int, num_images: int, level: float = 0.95) -> tuple[float, float]:
    """Compute Wilson's interval for an accuracy.

    Args:
        num_right: images that are right.
        num_images: images in all, at least 1.
        level: of the two-sided interval.

    Returns:
        Its ends, as fractions.

    Source: Wilson 1927.

    >>> [round(end, 4) for end in wilson_interval(50, 100)]
    [0.4038, 0.5962]
    """
    squared = NormalDist().inv_cdf((1 + level) / 2) ** 2
    share = num_right / num_images
    centre = share + squared / (2 * num_images)
    half = math.sqrt(squared * (share * (1 - share) + squared / (4 * num_images)) / num_images)
    scale = 1 + squared / num_images
    return (centre - half) / scale, (centre + half) / scale


def is_above_chance(num_right: int, num_images: int, num_classes: int) -> bool:
    """Say whether an accuracy leaves something to compare with: its lower 95 % bound is at least chance + 2 points.

    Source: METHOD, "Not measurable".
    """
    return wilson_interval(num_right, num_images)[0] >= 1 / num_classes + MARGIN_ABOVE_CHANCE


def standard_error(influence: Values) -> float:
    """Compute the standard error of a score from its influence values (N,); infinite for a single image."""
    num_images = len(influence)
    if num_images < 2:
        return float("inf")
    return float(np.sqrt(np.sum(influence**2) / (num_images * (num_images - 1))))


def linear_interval(score: float, influence: Values, level: float, num_contributing: int) -> tuple[float, float]:
    """Compute the interval of the linearised score, by Student's t.

    Args:
        score: the estimate.
        influence: float64 (N,), each image's share in its error.
        level: of the two-sided interval.
        num_contributing: images that say anything about the spread of the influence; its degrees of freedom are one
            fewer.

    Returns:
        Its ends.
    """
    half = student_half_width(level, max(num_contributing - 1, 1)) * standard_error(influence)
    return score - half, score + half


@lru_cache(maxsize=1024)
def student_half_width(level: float, degrees: int) -> float:
    """Compute how many standard errors lie on either side of an estimate, by Student's t.

    That is t with P(|T| ≤ t) = level, by Newton's steps from below: in θ = arctan(t / √ν) the probability is a finite
    sum, and its slope falls. scipy has the same, but a page would import it for this alone.

    Args:
        level: of the two-sided interval, above 0 and at most 0.9999999.
        degrees: ν of freedom, at least 1.

    Returns:
        t, to 9 digits; to 6 beyond a level of 0.9999.

    Raises:
        ValueError: ``level`` is out of range.

    Source: Abramowitz and Stegun 1964, 26.7.3 and 26.7.4.

    >>> round(student_half_width(0.95, 9), 4)
    2.2622
    """
    if not 0 < level <= 0.9999999:
        raise ValueError(f"level must lie in (0, 0.9999999], got {level}; take a lower one, or fewer scores at once")
    angle = math.atan(NormalDist().inv_cdf((1 + level) / 2) / math.sqrt(degrees))
    steps = np.arange(1 + degrees % 2, degrees - 1, 2)
    ratios = steps / (steps + 1)
    slope = 2 * math.exp(math.lgamma((degrees + 1) / 2) - math.lgamma(degrees / 2)) / math.sqrt(math.pi)
    for _ in range(100):
        sine, cosine = math.sin(angle), math.cos(angle)
        terms = 1 + float(np.cumprod(ratios * cosine**2).sum())
        if degrees % 2 == 0:
            inside = sine * terms
        else:
            inside = 2 / math.pi * (angle + (sine * cosine * terms if degrees > 1 else 0.0))
        step = (level - inside) / (slope * cosine ** (degrees - 1))
        angle += step
        if step <= 1e-14 * angle:  # from below, each step is a rise
            break
    return math.sqrt(degrees) * math.tan(angle)


def num_contributing(q: Values, z: Values, changed: npt.NDArray[np.bool_]) -> int:
    """Count the images that tell anything about a score.

    Args:
        q: float64 (…, N).
        z: float64 (…, N).
        changed: bool (N,), whether any filtered network answers otherwise than the unfiltered one.

    Returns:
        The images that changed, or, if that is fewer, those that differ from the commonest (q, z).
    """
    alike = Counter(map(tuple, np.round(np.vstack([q, z]), 9).T.tolist()))
    return min(int(changed.sum()), len(changed) - max(alike.values()))


def betting_interval(estimand: Estimand, q: Values, z: Values, level: float) -> tuple[float, float]:
    """Compute an interval that holds for any number of images and any distribution of (q, z).

    For each score s the gambler bets, image by image, on the mean of the pivot being above (below) zero; were s the
    true score, the capital would grow to 2 / (1 − level) with probability (1 − level) / 2 at most (Markov), so scores
    at which it does are excluded. The stakes are fixed and mixed, so the order of the images does not matter.

    Args:
        estimand: which score.
        q: float64 (N,) in [0, 1].
        z: float64 (N,), 0 or 1.
        level: of the two-sided interval.

    Returns:
        Its ends. It is never of zero width.

    Source: Waudby-Smith and Ramdas, "Estimating means of bounded random variables by betting", 2024, with a pivot
    for a ratio of means (this project).
    """
    bet = Bet(estimand, q, z, level)
    centre = estimand.estimate(q, z)
    return _edge(bet.excludes_as_too_low, centre, -1), _edge(bet.excludes_as_too_high, centre, 1)


class Bet:
    """What a gambler who has seen some images has won against each possible score.

    Args:
        estimand: which score.
        q: float64 (N,) in [0, 1].
        z: float64 (N,), 0 or 1.
        level: of the two-sided interval; each side errs with probability (1 − ``level``) / 2 at most, however often it
            is looked at while images arrive (Ville).
    """

    def __init__(self, estimand: Estimand, q: Values, z: Values, level: float) -> None:
        """Gather the images that are alike."""
        self._estimand = estimand
        self._values, self._counts = np.unique(np.stack([q, z]), axis=1, return_counts=True)
        self._needed = np.log(2 / (1 - level))

    def excludes_as_too_low(self, scores: Values) -> npt.NDArray[np.bool_]:
        """Say for each score (S,) whether the true one is shown to be above it."""
        return self._wins(scores, 1, -self._estimand.pivot_bounds(scores)[0])

    def excludes_as_too_high(self, scores: Values) -> npt.NDArray[np.bool_]:
        """Say for each score (S,) whether the true one is shown to be below it."""
        return self._wins(scores, -1, self._estimand.pivot_bounds(scores)[1])

    def _wins(self, scores: Values, side: int, largest_losses: Values) -> npt.NDArray[np.bool_]:
        cannot_lose = largest_losses <= 0
        stakes = side * np.divide.outer(_STAKES, np.where(cannot_lose, 1.0, largest_losses))
        gains = 1 + stakes[..., None] * self._estimand.pivot(scores, self._values[0], self._values[1])
        with np.errstate(divide="ignore"):
            capital = (self._counts * np.log(np.maximum(gains, 0))).sum(axis=-1)
        won = np.logaddexp.reduce(capital, axis=0) - np.log(len(_STAKES)) >= self._needed
        return np.asarray(won | cannot_lose)


_STEPS: Values = 0.01 * np.exp2(np.arange(17))
"""How far from the estimate a score is looked at first."""


def _edge(excluded: Callable[[Values], npt.NDArray[np.bool_]], centre: float, direction: int) -> float:
    """Find where scores begin to be excluded, going away from the estimate: to a 2⁻³⁶th of the step that finds one.

    Where none is, the last one looked at is returned.
    """
    found = excluded(centre + direction * _STEPS)
    if not found.any():
        return float(centre + direction * _STEPS[-1])
    steps = np.append(0.0, _STEPS)
    first = int(found.argmax()) + 1
    for _ in range(9):
        steps = np.linspace(steps[first - 1], steps[first], 17)
        found = excluded(centre + direction * steps[1:-1])
        first = int(np.append(found, True).argmax()) + 1
    return float(centre + direction * steps[first])
