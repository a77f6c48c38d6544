"""What can be chosen, under which titles, and the specifications that follow from what the side bar says."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import streamlit as st

from fss_core.data import DATASETS, EMBEDDED, list_datasets
from fss_core.imports import Entry, imported, published
from fss_core.jobs.requests import MeasureRequest
from fss_core.scores import Kind
from fss_core.specs import (
    DEFAULT_IMAGES,
    LARGEST_NUM_THRESHOLDS,
    NETWORKS,
    FssError,
    MeasurementSpec,
    ResponseSpec,
    ScoreSpec,
    TrainingSpec,
)
from pages.common.links import Param

THRESHOLDS = (5, 7, 9, 13, 25, 49)
LEVELS = (0.8, 0.9, 0.95, 0.99)
REFERENCES = {"unfiltered": "The unfiltered network", "retained": "Fraction of weights kept"}
NORMALISATIONS = {"chance": "Accuracy above chance", "p0": "Relative accuracy", "none": "Accuracy points"}
INTEGRATIONS = {"trapezoid": "Trapezoid", "simpson": "Simpson"}
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD"}
MODES = {"frozen": "Frozen: attack once", "adaptive": "Adaptive: attack each"}

FILTERS = {
    "high_pass": "High-pass",
    "low_pass": "Low-pass",
    "pulse": "Pulse",
    "mean": "Mean of the three",
    "random": "Random control",
}
KIND_TITLES: dict[Kind, str] = {"clean": "Clean", "adversarial": "Adversarial", "difference": "Difference"}

DEVICES = {"cpu": "Processor (CPU)", "cuda": "NVIDIA GPU (cuda)", "mps": "Apple GPU (mps)"}
"""Of which results can be looked at; measuring needs the device to be here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """What is chosen in the side bar.

    Attributes:
        request: what is looked at, and what **Measure** asks for.
        score: how it is scored.
        simultaneous: whether all intervals are to hold together.
    """

    request: MeasureRequest
    score: ScoreSpec
    simultaneous: bool


def known_datasets() -> dict[str, str]:
    """List the data sets that a view can name, with titles: registered ones, and those of results from elsewhere."""
    here: dict[str, str] = {}
    titles = dict(DATASETS)
    try:
        for state in list_datasets():
            (titles if state.state == "missing" else here)[state.name] = state.title
    except FssError:
        pass  # the list of folders is broken; the built-in data sets are there all the same
    elsewhere: dict[str, str] = {}
    for collection in (imported(), published()):
        for entry in collection.entries():
            if isinstance(entry, Entry):
                elsewhere.setdefault(entry.manifest.measurement.training.dataset, entry.manifest.dataset.title)
    return titles | elsewhere | here


def known_networks() -> dict[str, str]:
    """List the networks that a view can name, with their titles."""
    titles = dict(NETWORKS)
    for collection in (imported(), published()):
        for entry in collection.entries():
            if isinstance(entry, Entry):
                own = entry.manifest.measurement.training.network
                titles.setdefault(own, own)
    return titles


PARAMS: dict[str, Param] = {
    "network": Param(default="shufflenet_v2_x1_0", what="network", known=known_networks),
    "dataset": Param(
        default=EMBEDDED,
        what="data set",
        known=known_datasets,
        remedy=" (register it with `fss data add NAME PATH` to open this link)",
    ),
    "epoch": Param(default=3, what="epoch", bounds=(0, 1_000_000)),
    "init": Param(default=0, what="initialisation", bounds=(0, 1_000_000)),
    "train": Param(default=0, what="number of training images", bounds=(0, 10_000_000)),
    "images": Param(default=DEFAULT_IMAGES, what="number of images", bounds=(1, 100_000)),
    "thresholds": Param(default=25, what="number of thresholds", bounds=(2, LARGEST_NUM_THRESHOLDS)),
    "attack": Param(default="fgsm", what="attack", known=lambda: ATTACKS),
    "mode": Param(default="frozen", what="attack mode", known=lambda: MODES),
    "epsilon": Param(default="", what="ε"),
    "device": Param(default="cpu", what="device", known=lambda: DEVICES),
    "whole": Param(default=True, what="whole-network row"),
    "control": Param(default=True, what="random control"),
    "reference": Param(default="unfiltered", what="reference", known=lambda: REFERENCES),
    "normalise": Param(default="chance", what="normalisation", known=lambda: NORMALISATIONS),
    "integration": Param(default="trapezoid", what="integration", known=lambda: INTEGRATIONS),
    "tolerance": Param(default=0.05, what="tolerance η", bounds=(0.0, 0.3)),
    "level": Param(default=0.95, what="level", bounds=(0.5, 0.999)),
    "together": Param(default=False, what="all intervals together"),
}
"""What the side bar says, as it stands in the address of every view."""


def parse_epsilon(text: str) -> float | None:
    """Read ε as a person writes it: nothing for calibrated, 8/255, or a number of pixels on [0, 1].

    Raises:
        ValueError: it is none of these.
    """
    text = text.strip()
    if not text or text == "calibrated":
        return None
    number, _, divisor = text.partition("/")
    try:
        value = float(number) / (float(divisor) if divisor else 1.0)
    except (ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value <= 1:
        raise ValueError(
            f"ε must lie in (0, 1], in pixels, like 8/255 or 0.03; got {text[:40]!r}; leave it empty to calibrate"
        )
    return value


def read_choices() -> Choices:
    """Put together what the controls say.

    Raises:
        ValueError: they say what cannot be.
    """
    chosen = {key: st.session_state.get(key, param.default) for key, param in PARAMS.items()}
    score = ScoreSpec(
        reference=chosen["reference"],
        normalise=chosen["normalise"],
        integration=chosen["integration"],
        tolerance=float(chosen["tolerance"]),
        level=float(chosen["level"]),
    )
    request = MeasureRequest(
        spec=measurement_of(chosen), whole=bool(chosen["whole"]), control=bool(chosen["control"]), preview=True
    )
    return Choices(request=request, score=score, simultaneous=bool(chosen["together"]))


def measurement_of(chosen: Mapping[str, Any]) -> MeasurementSpec:
    """Put together what is measured, from values under the keys of ``PARAMS``.

    Raises:
        ValueError: they say what cannot be.
    """
    return MeasurementSpec(
        training=TrainingSpec(
            network=chosen["network"],
            dataset=chosen["dataset"],
            seed=int(chosen["init"]),
            num_train=int(chosen["train"]) or None,
        ),
        epoch=int(chosen["epoch"]),
        num_images=int(chosen["images"]),
        attack_kind=chosen["attack"],
        attack_mode=chosen["mode"],
        epsilon=parse_epsilon(chosen["epsilon"] or ""),
        response=ResponseSpec(num_thresholds=int(chosen["thresholds"])),
        device=chosen["device"],
    )
