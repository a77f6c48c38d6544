"""Stopping when the answer is known: a layer is measured on more and more images until all its calls are decided.

Images come in the probe split's random order. Every :data:`IMAGES_PER_LOOK` images each cell of the layer (a filter,
clean or adversarial) is looked at: it stops as fragile or antifragile as soon as a bet against the score being −η or
more, or η or less, has won enough. Such a bet may be looked at as often as one likes (Ville's inequality), so stopping
costs no validity. A robust call needs every image, and the difference of two scores stops nothing. A layer stops when
all its cells have; one cell that is robust or undecided makes it use them all.

A call is wrong, and an interval misses the score, with probability 1 − ``level`` at most, however a layer came to stop:
half of that is the bet's (both of its sides, at all looks), half that of the interval over all images. Where a layer
stopped is found again from the predictions that are stored, as of any measurement; a later measurement of all images
goes on from there, and another tolerance or level stops elsewhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from fss_core.intervals import Bet
from fss_core.responses import LayerResponse, Responses
from fss_core.scores import (
    KINDS,
    Call,
    Curve,
    Kind,
    Score,
    Scores,
    layer_curves,
    level_of_each,
    score_curve,
    score_filters,
    why_not_measurable,
)
from fss_core.specs import IMAGES_PER_CHUNK, ScoreSpec

IMAGES_PER_LOOK = IMAGES_PER_CHUNK // 2

Place = tuple[str, Kind]
"""A cell of a layer: a filter, and clean or adversarial."""


def looks(num_images: int) -> tuple[int, ...]:
    """List after how many images it is looked whether a layer can stop; all of them are the last.

    >>> looks(120)
    (50, 100, 120)
    """
    return (*range(IMAGES_PER_LOOK, num_images, IMAGES_PER_LOOK), num_images)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Where a cell stopped.

    Attributes:
        num_images: after so many images.
        call: as what; ``None`` if it has no score, and so asks for no image.
    """

    num_images: int
    call: Call | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping:
    """When a layer can stop, and what is said of one that has.

    Attributes:
        spec: how scores are computed; its tolerance and level decide.
        simultaneous: let all calls hold together (Bonferroni), not each by itself.
    """

    spec: ScoreSpec
    simultaneous: bool = False

    def is_settled(self, responses: Responses, layer: LayerResponse, num_layers: int) -> bool:
        """Say whether every cell of a layer has stopped, or has no score.

        Args:
            responses: of the unfiltered network on all N images; its layers are not looked at.
            layer: on the first of these images, as many as it was measured on.
            num_layers: layers that are called beside each other.
        """
        return all(self.stops(responses, layer, num_layers).values())

    def stops(self, responses: Responses, layer: LayerResponse, num_layers: int) -> dict[Place, Stop | None]:
        """Say where each cell of a layer stopped, ``None`` if it has not; arguments as of :meth:`is_settled`."""
        level = self._level(responses, num_layers)
        return {
            place: self._stop(responses, layer, place, curve, level)
            for place, curve in self._curves(responses, layer).items()
        }

    def score(self, responses: Responses) -> Scores:
        """Reduce responses of layers that have stopped, each on its own images, to scores.

        Args:
            responses: of N images; a layer may have been measured on the first of them only.

        Returns:
            As of :func:`fss_core.score_responses`, each score with the number of images it is from. The interval of one
            that is not from all images is the bet's; those from all images are a little wider than without stopping.
        """
        level = self._level(responses, len(responses.layers))
        rows = tuple(row for layer in responses.layers for row in self._score_layer(responses, layer, level))
        used = [layer.predictions.num_images for layer in responses.layers]
        early = sum(own < responses.num_images for own in used)
        share = sum(used) / max(len(used) * responses.num_images, 1)
        together = "all together" if self.simultaneous else "each by itself"
        note = (
            f"a layer stops as soon as all its calls are decided: {early} of {len(used)} layers did before the last "
            f"image, {share:.1%} of all images were used; a decided call is wrong with probability "
            f"{1 - self.spec.level:.2g} at most, {together}"
        )
        return Scores(
            spec=self.spec,
            level_per_score=self._level_of_each(responses, len(responses.layers)),
            attack=responses.attack,
            rows=rows,
            cautions=(*responses.cautions, note),
        )

    def _level_of_each(self, responses: Responses, num_layers: int) -> float:
        num_scores = num_layers * len(score_filters(responses)) * len(KINDS)
        return level_of_each(self.spec.level, num_scores, simultaneous=self.simultaneous)

    def _level(self, responses: Responses, num_layers: int) -> float:
        """Say at which level the bet is, and the interval over all images, so that both hold at that of the score."""
        return 1 - (1 - self._level_of_each(responses, num_layers)) / 2

    def _curves(self, responses: Responses, layer: LayerResponse) -> dict[Place, Curve]:
        own = first_images(responses, layer, layer.predictions.num_images)
        return layer_curves(own, own.layers[0], score_filters(responses), self.spec)

    def _stop(
        self, responses: Responses, layer: LayerResponse, place: Place, curve: Curve, level: float
    ) -> Stop | None:
        if why_not_measurable(responses, layer, *place):
            return Stop(num_images=0, call=None)
        for number in looks(len(curve.q)):
            own = first_images(responses, layer, number)
            if why_not_measurable(own, own.layers[0], *place):
                continue  # too few images to say that there is anything to lose
            bet = Bet(curve.estimand, curve.q[:number], curve.z[:number], level)
            tolerance = np.array([self.spec.tolerance])
            if bet.excludes_as_too_high(-tolerance).all():
                return Stop(num_images=number, call="fragile")
            if bet.excludes_as_too_low(tolerance).all():
                return Stop(num_images=number, call="antifragile")
        return None

    def _score_layer(self, responses: Responses, layer: LayerResponse, level: float) -> Iterator[Score]:
        """Score each cell on all the layer's images; or where it stopped, should those not decide it any more."""
        curves = self._curves(responses, layer)
        measured = layer.predictions.num_images

        def at(number: int, name: str, kind: Kind) -> Score:
            own = first_images(responses, layer, number)
            first = {place: curve.first(number) for place, curve in curves.items()}
            anytime = number < responses.num_images
            return score_curve(own, own.layers[0], first, name, kind, self.spec, level, anytime=anytime)

        for name in score_filters(responses):
            for kind in KINDS:
                if why_not_measurable(responses, layer, name, kind):
                    yield score_curve(responses, layer, curves, name, kind, self.spec, level)
                    continue
                own = at(measured, name, kind)
                if kind != "difference" and own.certainty != "decided":
                    stop = self._stop(responses, layer, (name, kind), curves[name, kind], level)
                    own = at(stop.num_images, name, kind) if stop is not None else own
                yield own


def first_images(responses: Responses, layer: LayerResponse, number: int) -> Responses:
    """Take one layer's response to the first images, as responses of its own."""
    return replace(
        responses,
        labels=responses.labels[:number],
        unfiltered=responses.unfiltered.images(0, number),
        layers=(replace(layer, predictions=layer.predictions.images(0, number)),),
    )
