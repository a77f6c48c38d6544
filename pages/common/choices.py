"""What the address of a page says, and the specifications that follow from it.

Every control is bound to a query parameter of its own key, so that a link is a view. Opening one never starts work.
"""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from fss_core.data import DATASETS, EMBEDDED, list_datasets
from fss_core.imports import Entry, imported, published
from fss_core.jobs.requests import MeasureRequest
from fss_core.specs import (
    DEFAULT_IMAGES,
    NETWORKS,
    FssError,
    MeasurementSpec,
    ResponseSpec,
    ScoreSpec,
    TrainingSpec,
    UnknownNameError,
    choose,
)

DEFAULTS: dict[str, object] = {
    "network": "shufflenet_v2_x1_0",
    "dataset": EMBEDDED,
    "epoch": 3,
    "init": 0,
    "images": DEFAULT_IMAGES,
    "thresholds": 25,
    "attack": "fgsm",
    "mode": "frozen",
    "epsilon": "",
    "whole": True,
    "control": True,
    "reference": "unfiltered",
    "normalise": "chance",
    "integration": "trapezoid",
    "tolerance": 0.05,
    "level": 0.95,
    "together": False,
}
"""What each control of the side bar is set to when the address does not say."""

THRESHOLDS = (5, 7, 9, 13, 25, 49)
LEVELS = (0.8, 0.9, 0.95, 0.99)
ATTACKS = {"fgsm": "FGSM", "pgd": "PGD"}
MODES = {"frozen": "Frozen: attack the unfiltered network once", "adaptive": "Adaptive: attack every filtered network"}


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
    titles = dict(DATASETS)
    try:
        titles |= {state.name: state.title for state in list_datasets()}
    except FssError:
        pass  # the list of folders is broken; the built-in data sets are there all the same
    for collection in (imported(), published()):
        for entry in collection.entries():
            if isinstance(entry, Entry):
                titles.setdefault(entry.manifest.measurement.training.dataset, entry.manifest.dataset.title)
    return titles


def known_networks() -> dict[str, str]:
    """List the networks that a view can name, with their titles."""
    titles = dict(NETWORKS)
    for collection in (imported(), published()):
        for entry in collection.entries():
            if isinstance(entry, Entry):
                own = entry.manifest.measurement.training.network
                titles.setdefault(own, own)
    return titles


def link_problem() -> str:
    """Say what the address asks for that is not there; empty if it can be shown.

    Controls fall back to their defaults where the address makes no sense to them, and a default is another view than
    the one that was linked to.
    """
    for key, known, what in (
        ("network", known_networks(), "network"),
        ("dataset", known_datasets(), "data set"),
        ("attack", ATTACKS, "attack"),
        ("mode", MODES, "attack mode"),
    ):
        asked = st.query_params.get(key)
        if asked is not None:
            try:
                choose(asked[:60], known, what=what)
            except UnknownNameError as error:
                remedy = "; register it with `fss data add NAME PATH` to open this link" if key == "dataset" else ""
                return f"This link names what is not here: {error}{remedy}."
    for key, low, high in (("epoch", 0, 1_000_000), ("init", 0, 1_000_000), ("images", 1, 100_000)):
        asked = st.query_params.get(key)
        if asked is not None and not (asked.isdecimal() and low <= int(asked) <= high):
            return f"This link asks for {key} = {asked[:40]!r}; it must be a whole number from {low} to {high}."
    return ""


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
    chosen = {key: st.session_state.get(key, default) for key, default in DEFAULTS.items()}
    spec = MeasurementSpec(
        training=TrainingSpec(network=chosen["network"], dataset=chosen["dataset"], seed=int(chosen["init"])),
        epoch=int(chosen["epoch"]),
        num_images=int(chosen["images"]),
        attack_kind=chosen["attack"],
        attack_mode=chosen["mode"],
        epsilon=parse_epsilon(chosen["epsilon"] or ""),
        response=ResponseSpec(num_thresholds=int(chosen["thresholds"])),
        device=st.session_state.get("device", "cpu"),
    )
    score = ScoreSpec(
        reference=chosen["reference"],
        normalise=chosen["normalise"],
        integration=chosen["integration"],
        tolerance=float(chosen["tolerance"]),
        level=float(chosen["level"]),
    )
    request = MeasureRequest(spec=spec, whole=bool(chosen["whole"]), control=bool(chosen["control"]))
    return Choices(request=request, score=score, simultaneous=bool(chosen["together"]))
