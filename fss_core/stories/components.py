"""What a step can show: its parameters, the one control it may have, and the numbers that its text may name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from fss_core.retraining.results import JUDGED
from fss_core.scores import KINDS, MEAN_FILTER
from fss_core.specs import SYNAPTIC_FILTERS

Value = str | int | float | bool
Needs = Literal["network", "epochs", "retraining"]
"""What must be there: a checkpoint with its ε; measured epochs; a retraining."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One thing that a story's file may say of a component.

    Attributes:
        default: what it is otherwise; decides its type, but whole numbers do for others.
        choices: the names it may have; empty for any.
        bounds: smallest and largest value of a number.
    """

    default: Value
    choices: tuple[str, ...] = ()
    bounds: tuple[float, float] | None = None

    def problem(self, value: object) -> str:
        """Say what is wrong with a value; empty if nothing is."""
        if isinstance(self.default, bool) or isinstance(value, bool):
            if type(value) is not type(self.default):
                return f"must be {'true or false' if isinstance(self.default, bool) else 'no truth value'}"
        elif isinstance(self.default, str):
            if not isinstance(value, str):
                return "must be a text"
            if self.choices and value not in self.choices:
                return f"must be one of {', '.join(self.choices)}"
        elif not isinstance(value, int if isinstance(self.default, int) else int | float):
            return "must be a whole number" if isinstance(self.default, int) else "must be a number"
        elif self.bounds is not None and not self.bounds[0] <= float(value) <= self.bounds[1]:
            return f"must lie from {self.bounds[0]:g} to {self.bounds[1]:g}"
        return ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Component:
    """Something that can be shown.

    Attributes:
        what: it shows, in words.
        needs: what must be there.
        controls: which controls it can have; a step has one of them.
        fields: the numbers and words that texts may name in braces.
        parameters: what a story's file may say of it.
    """

    what: str
    needs: Needs
    controls: tuple[str, ...]
    fields: tuple[str, ...]
    parameters: Mapping[str, Parameter] = field(default_factory=dict)

    def known_parameters(self) -> dict[str, Parameter]:
        """All parameters, those that every component has first."""
        control = Parameter(default=self.controls[0], choices=self.controls)
        return {"control": control, "start": Parameter(default=""), **self.parameters}


_ABOUT = ("network", "dataset", "epoch", "images", "epsilon")
_IMAGES = Parameter(default=100, bounds=(20, 500))
_THRESHOLDS = Parameter(default=9, bounds=(3, 25))
_LAYER = Parameter(default="conv1.0")
_FILTER = Parameter(default="high_pass", choices=SYNAPTIC_FILTERS)
_ANY_FILTER = Parameter(default=MEAN_FILTER, choices=(*SYNAPTIC_FILTERS, MEAN_FILTER))
_KIND = Parameter(default="adversarial", choices=KINDS)
_STUDIED = ("network", "dataset", "images", "epsilon", "origin")
_WHERE = {"network": Parameter(default=""), "dataset": Parameter(default="")}
_TRAINED = {
    **_WHERE,
    "kind": _KIND,
    "filter": _ANY_FILTER,
    "epochs": Parameter(default="1 2 3"),
    "images": _IMAGES,
    "thresholds": _THRESHOLDS,
}
_RETRAINED = {
    **_WHERE,
    "rules": Parameter(default="robust_antifragile all fragile"),
    "budget": Parameter(default=1, bounds=(1, 10)),
    "report_images": Parameter(default=300, bounds=(50, 750)),
    "images": _IMAGES,
    "thresholds": _THRESHOLDS,
}

COMPONENTS: dict[str, Component] = {
    "attack": Component(
        what="one image, its FGSM perturbation, and what the network makes of both; of a filtered network if need be",
        needs="network",
        controls=("image", "epsilon", "threshold"),
        parameters={
            "epsilon": Parameter(default=-1.0, bounds=(-1, 255)),
            "image": Parameter(default=-1, bounds=(-1, 499)),
            "layer": Parameter(default=""),
            "filter": _FILTER,
            "threshold": Parameter(default=0, bounds=(0, 24)),
            "images": _IMAGES,
            "thresholds": _THRESHOLDS,
        },
        fields=(
            *_ABOUT,
            "calibrated_epsilon",
            "label",
            "clean_prediction",
            "clean_confidence",
            "adversarial_prediction",
            "adversarial_confidence",
            "outcome",
            "scale",
            "clean_accuracy",
            "adversarial_accuracy",
            "zero_gradient",
            "chance",
            "position",
        ),
    ),
    "sweep": Component(
        what="accuracy under FGSM over ε",
        needs="network",
        controls=("epsilon",),
        parameters={"images": _IMAGES},
        fields=(
            *_ABOUT,
            "calibrated_epsilon",
            "clean_accuracy",
            "adversarial_accuracy",
            "lost",
            "chance",
            "zero_gradient",
        ),
    ),
    "filter": Component(
        what="one layer's weights, what a filter removes of them, and the accuracy of what is left",
        needs="network",
        controls=("threshold", "layer"),
        parameters={
            "layer": _LAYER,
            "filter": _FILTER,
            "random": Parameter(default=False),
            "images": _IMAGES,
            "thresholds": _THRESHOLDS,
        },
        fields=(
            *_ABOUT,
            "layer",
            "filter",
            "position",
            "threshold",
            "removed",
            "weights",
            "share",
            "clean_before",
            "clean_accuracy",
            "adversarial_before",
            "adversarial_accuracy",
            "random_clean",
            "random_adversarial",
        ),
    ),
    "area": Component(
        what="a score as an area: the response against its reference, up to a threshold",
        needs="network",
        controls=("threshold",),
        parameters={
            "layer": _LAYER,
            "filter": _FILTER,
            "kind": Parameter(default="clean", choices=("clean", "adversarial")),
            "images": _IMAGES,
            "thresholds": _THRESHOLDS,
        },
        fields=(*_ABOUT, "layer", "filter", "kind", "position", "accuracy", "before", "relative", "so_far", "score"),
    ),
    "calls": Component(
        what="scores of one layer with their intervals and calls",
        needs="network",
        controls=("tolerance", "images", "layer"),
        parameters={
            "layer": _LAYER,
            "filter": _ANY_FILTER,
            "kind": Parameter(default="adversarial", choices=(*KINDS, "all")),
            "tolerance": Parameter(default=0.05, bounds=(0, 0.3)),
            "random": Parameter(default=False),
            "images": _IMAGES,
            "thresholds": _THRESHOLDS,
        },
        fields=(
            *_ABOUT,
            "layer",
            "filter",
            "kind",
            "score",
            "low",
            "high",
            "width",
            "call",
            "certainty",
            "tolerance",
            "sentence",
            "chance_sentence",
        ),
    ),
    "epochs": Component(
        what="scores by layer and epoch",
        needs="epochs",
        controls=("kind",),
        parameters=_TRAINED,
        fields=(*_STUDIED, "first", "last", "layers", "kind", "first_calls", "last_calls", "share", "null_share"),
    ),
    "profile": Component(
        what="the scores of all layers at one epoch, over those of the others",
        needs="epochs",
        controls=("epoch",),
        parameters=_TRAINED,
        fields=(*_STUDIED, "first", "last", "layers", "kind", "epoch", "calls"),
    ),
    "trajectories": Component(
        what="scores of some layers over epochs",
        needs="epochs",
        controls=("layer",),
        parameters=_TRAINED,
        fields=(*_STUDIED, "first", "last", "kind", "layer", "first_score", "last_score", "first_call", "last_call"),
    ),
    "rankings": Component(
        what="how alike epochs rank the layers",
        needs="epochs",
        controls=("kind",),
        parameters=_TRAINED,
        fields=(*_STUDIED, "first", "last", "kind", "tau_sentence", "layers"),
    ),
    "coverage": Component(
        what="which layers each rule retrains",
        needs="retraining",
        controls=("rule",),
        parameters=_RETRAINED,
        fields=(*_STUDIED, "rule", "rule_title", "trained_layers", "layers", "trained_share", "epoch"),
    ),
    "retraining": Component(
        what="accuracy before and after retraining, rule by rule",
        needs="retraining",
        controls=("rule",),
        parameters=_RETRAINED,
        fields=(*_STUDIED, "rule", "rule_title", "budget", "before", "after", "difference", "pgd_difference", "epoch"),
    ),
    "verdicts": Component(
        what="what retraining the paper's layers gains or costs, wherever it was tried",
        needs="retraining",
        controls=("judged",),
        parameters={
            **_RETRAINED,
            "judged": Parameter(default="fgsm", choices=JUDGED),
            "against": Parameter(default="no retraining", choices=("no retraining", "all")),
        },
        fields=(*_STUDIED, "judged", "against", "cells", "helps", "hurts", "undecided", "not_tested"),
    ),
}
"""By the name that a story's file has under ``show``."""
