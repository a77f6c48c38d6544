"""What can be asked for: requests as frozen specifications, and in words."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Literal

from fss_core.specs import (
    CONTROL_FILTER,
    NETWORKS,
    SYNAPTIC_FILTERS,
    MeasurementSpec,
    digest,
    from_json,
)

if TYPE_CHECKING:
    from fss_core.jobs.board import Run

Part = Literal["layers", "whole", "control"]
"""Pieces of a measurement that are worth having by themselves, in the order in which they are measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """Asks for a measurement, and for what belongs beside it in a picture.

    Attributes:
        spec: what to measure.
        whole: filter the whole network at once, too.
        control: measure the random control, too, after everything else.
        layers: which layers of ``spec``; all by default.
        factory: ``module:function`` of a network of the user's own.
    """

    spec: MeasurementSpec
    whole: bool = False
    control: bool = False
    layers: tuple[str, ...] | None = None
    factory: str | None = None

    @property
    def key(self) -> str:
        """Names the run; the same as the board's."""
        return digest({"kind": "measure", "request": self.to_json()})

    def to_json(self) -> dict[str, object]:
        """Write the request so that :func:`fss_core.specs.from_json` reads it back."""
        return asdict(self)

    def parts(self) -> dict[Part, MeasurementSpec]:
        """List the measurements that this takes, each with its own thresholds, filters and scope."""
        response = self.spec.response
        parts: dict[Part, MeasurementSpec] = {"layers": self.spec}
        if self.whole:
            filters = (*SYNAPTIC_FILTERS, CONTROL_FILTER) if self.control else SYNAPTIC_FILTERS
            parts["whole"] = replace(self.spec, response=replace(response, scope="global", filters=filters))
        if self.control:
            parts["control"] = replace(self.spec, response=replace(response, filters=(CONTROL_FILTER,)))
        return parts

    def words(self) -> str:
        """Say in one line what is asked for."""
        spec = self.spec
        epsilon = "ε calibrated" if spec.epsilon is None else f"ε = {spec.epsilon * 255:.3g}/255"
        beside = [name for name, wanted in (("whole network", self.whole), ("random control", self.control)) if wanted]
        return "; ".join(
            [
                f"{NETWORKS.get(spec.training.network, spec.training.network)} on {spec.training.dataset}, "
                f"epoch {spec.epoch}, initialisation {spec.training.seed}",
                f"{spec.attack_kind.upper()} {spec.attack_mode}, {epsilon}",
                f"{spec.num_images} images, {spec.response.num_thresholds} thresholds",
                *(["with " + " and ".join(beside)] if beside else []),
                *([f"{len(self.layers)} layers"] if self.layers is not None else []),
            ]
        )


def words(run: Run) -> str:
    """Say in one line what a run is for."""
    try:
        return from_json(MeasureRequest, run.request).words()
    except ValueError:
        return "a request that this version cannot read"
