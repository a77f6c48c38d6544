"""A score as an area: between a layer's response and its reference, added up from the first threshold on."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from fss_core.responses import Responses
from fss_core.scores import Kind
from fss_core.specs import ScoreSpec
from fss_core.summaries.curves import layer_of
from fss_core.summaries.maps import rows_of, threshold_map


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ScoreArea:
    """The integrand of one score, and what it adds up to.

    Attributes:
        layer: its name.
        filter: one, or ``"mean"``.
        kind: ``"clean"`` or ``"adversarial"``.
        positions: float64 (A,), t on [0, 1].
        relative: float64 (A,), r(t) = (p(t) − c) / (p₀ − c): 1 like the unfiltered network, 0 at chance.
        reference: float64 (A,), b(t).
        so_far: float64 (A,), the area from 0 to t, by the trapezoid rule; the last one is the score.
        num_images: n.
        reason: why there is no score, in words; empty otherwise.
    """

    layer: str
    filter: str
    kind: Kind
    positions: npt.NDArray[np.float64]
    relative: npt.NDArray[np.float64]
    reference: npt.NDArray[np.float64]
    so_far: npt.NDArray[np.float64]
    num_images: int
    reason: str

    @property
    def score(self) -> float:
        """The whole area; NaN where there is a reason why not."""
        return float(self.so_far[-1])


def score_area(responses: Responses, layer: str, filter: str, kind: Kind, spec: ScoreSpec) -> ScoreArea:
    """Add a score up from the first threshold on.

    Args:
        responses: in which the layer was measured.
        layer: its name.
        filter: one that was measured, or ``"mean"``.
        kind: ``"clean"`` or ``"adversarial"``.
        spec: reference; normalised by chance and integrated by the trapezoid rule.

    Returns:
        The area up to every threshold.

    Raises:
        ValueError: the layer or the filter was not measured, ``kind`` is the difference, or ``spec`` is another way.

    Source: METHOD, "Scores".
    """
    if kind == "difference" or (spec.normalise, spec.integration) != ("chance", "trapezoid"):
        raise ValueError("an area is that of a clean or an adversarial score above chance, by the trapezoid rule")
    found = layer_of(responses, layer)
    integrand = threshold_map(responses, filter, kind, spec, [layer])
    values = integrand.values[0]
    kept = found.facts.kept_fraction[rows_of(responses, filter)].mean(axis=0)
    reference = kept if spec.reference == "retained" else np.ones_like(kept)
    steps = (values[1:] + values[:-1]) / 2 * np.diff(responses.positions)
    return ScoreArea(
        layer=layer,
        filter=filter,
        kind=kind,
        positions=responses.positions,
        relative=values + reference,
        reference=np.asarray(reference, dtype=np.float64),
        so_far=np.concatenate([[0.0 if np.isfinite(values[0]) else np.nan], np.cumsum(steps)]),
        num_images=responses.num_images,
        reason=integrand.reason,
    )
