"""What can be asked for: requests as frozen specifications, and in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, Protocol

from fss_core.specs import (
    CONTROL_FILTER,
    NETWORKS,
    SYNAPTIC_FILTERS,
    MeasurementSpec,
    digest,
    to_json,
)


class Request(Protocol):
    """What every request can say of itself."""

    @property
    def kind(self) -> str:
        """Which kind of run it asks for: a name in ``kinds.KINDS``."""

    @property
    def key(self) -> str:
        """Names its run; the same as the board's."""

    def to_json(self) -> dict[str, object]:
        """Write it so that :func:`fss_core.specs.from_json` reads it back."""

    def words(self) -> str:
        """Say in one line what is asked for."""


Part = Literal["preview", "layers", "whole", "control"]
"""Pieces of a measurement that are worth having by themselves, in the order in which they are measured."""

PREVIEW_IMAGES, PREVIEW_THRESHOLDS = 64, 7
"""Of a first look: clean images (and as many attacked), and thresholds of each layer."""
_PREVIEW_PAYS = 4
"""So many times as many predictions the whole must take as a first look at it."""


def preview_of(spec: MeasurementSpec) -> MeasurementSpec | None:
    """Say what a first look at a measurement is: the same on fewer images at fewer thresholds, so with wide intervals.

    Returns:
        A measurement of its own, with its own key; ``None`` where the whole takes hardly longer.

    >>> from fss_core.specs import TrainingSpec
    >>> spec = MeasurementSpec(training=TrainingSpec(network="resnet18", dataset="mnist"), epoch=1, num_images=300)
    >>> preview_of(spec).num_images, preview_of(spec).response.num_thresholds
    (64, 7)
    >>> preview_of(preview_of(spec)) is None
    True
    """
    num_images = min(spec.num_images, PREVIEW_IMAGES)
    num_thresholds = min(spec.response.num_thresholds, PREVIEW_THRESHOLDS)
    if spec.num_images * spec.response.num_thresholds < _PREVIEW_PAYS * num_images * num_thresholds:
        return None
    return replace(spec, num_images=num_images, response=replace(spec.response, num_thresholds=num_thresholds))


def essence(spec: MeasurementSpec) -> MeasurementSpec:
    """Leave out of a measurement what is stored piece by piece under one key: filters and images."""
    return replace(
        spec,
        num_images=1,
        attack_kind=spec.attack_kind.lower(),
        response=replace(spec.response, filters=SYNAPTIC_FILTERS),
        device=spec.device_type,
    )


def request_key(kind: str, request: Mapping[str, object]) -> str:
    """Name a run: the SHA-256 of its kind and of what is asked for."""
    return digest({"kind": kind, "request": request})


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasureRequest:
    """Asks for a measurement, and for what belongs beside it in a picture.

    Attributes:
        spec: what to measure.
        whole: filter the whole network at once, too.
        control: measure the random control, too, after everything else.
        preview: take a first look at all layers before anything else, where that is quicker by far.
        layers: which layers of ``spec``; all by default. None of them asks for what they share: the network, ε and the
            attacked images.
        factory: ``module:function`` of a network of the user's own.
    """

    spec: MeasurementSpec
    whole: bool = False
    control: bool = False
    preview: bool = False
    layers: tuple[str, ...] | None = None
    factory: str | None = None

    @property
    def kind(self) -> str:
        """Which kind of run this asks for."""
        return "measure"

    @property
    def key(self) -> str:
        """Names the run; the same as the board's."""
        return request_key(self.kind, self.to_json())

    def to_json(self) -> dict[str, object]:
        """Write the request so that :func:`fss_core.specs.from_json` reads it back; a first look only if it is one."""
        found = to_json(self)
        if "preview" not in self.parts():
            del found["preview"]
        return found

    def parts(self) -> dict[Part, MeasurementSpec]:
        """List the measurements that this takes, each with its own thresholds, filters and scope."""
        response = self.spec.response
        preview = preview_of(self.spec) if self.preview else None
        parts: dict[Part, MeasurementSpec] = {} if preview is None else {"preview": preview}
        parts["layers"] = self.spec
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
                *([spec.training.subset] if spec.training.subset else []),
                f"{spec.attack_kind.upper()} {spec.attack_mode}, {epsilon}",
                f"{spec.num_images} images, {spec.response.num_thresholds} thresholds",
                *([spec.response.arithmetic] if spec.response.arithmetic != "float32" else []),
                *(["with " + " and ".join(beside)] if beside else []),
                *([f"{len(self.layers) or 'no'} layers"] if self.layers is not None else []),
            ]
        )
