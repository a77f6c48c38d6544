"""The side bar that all views share: what is looked at, how it is scored, and the offer to measure it."""

from __future__ import annotations

from collections.abc import Mapping

import streamlit as st
from streamlit.delta_generator import DeltaGenerator

from fss_core.data import DATASETS, dataset_state
from fss_core.jobs.pool import num_gpus
from fss_core.specs import FssError
from pages.common.choices import (
    ATTACKS,
    DEVICES,
    INTEGRATIONS,
    LEVELS,
    MODES,
    NORMALISATIONS,
    REFERENCES,
    THRESHOLDS,
    Choices,
    known_datasets,
    known_networks,
    read_choices,
)
from pages.common.frame import plain

_HELP = {
    "epoch": "Which checkpoint of the training: 0 is untrained. One that is not there yet is trained by Measure.",
    "init": "The seed of the initial weights and of the order of the images: another one is another network.",
    "train": "Train on so many of the training images, the same ones for every initialisation. 0: on all of them.",
    "images": "Probe images, none of which training has seen. More images make intervals narrower, and take longer.",
    "thresholds": "Strengths at which each filter is tried, spread evenly over a layer's weights.",
    "mode": "Frozen: every filtered network sees the same attacked images. Adaptive: each is attacked anew, which "
    "takes much longer.",
    "epsilon": "The largest change of a pixel on [0, 1], like 8/255. Empty: calibrated, to where PGD takes accuracy "
    "halfway to chance.",
    "whole": "Also filter all layers at once, each at its own thresholds: the last row.",
    "control": "Also remove as many weights as high-pass does, chosen at random: would removing any weights do that? "
    "Doubles the time.",
    "reference": "What a filtered network is compared with.",
    "normalise": "Above chance: a destroyed network scores −1. Relative: as the authors' notebooks do. Points: plain "
    "accuracy.",
    "tolerance": "η: a score within ±η is called robust.",
    "together": "Bonferroni: widen every interval so that all of this picture hold together, not each by itself.",
}


def draw(title: str) -> tuple[Choices, DeltaGenerator] | None:
    """Draw the controls and read them.

    Args:
        title: of the page, for want of a better one where they say what cannot be.

    Returns:
        What is chosen, and the place for the offer to do it; ``None`` if it cannot be, which the page then says.
    """
    _draw_measuring()
    place = st.sidebar.container()
    _draw_scoring()
    try:
        return read_choices(), place
    except ValueError as error:
        st.title(title, anchor=False)
        st.error(plain(str(error)))
        return None


def _draw_measuring() -> None:
    datasets, networks = known_datasets(), known_networks()
    with st.sidebar:
        _choose("Network", "network", networks)
        _choose("Data set", "dataset", datasets)
        _dataset_note()
        left, right = st.columns(2)
        left.number_input("Epoch", 0, 1_000_000, key="epoch", help=_HELP["epoch"])
        right.number_input("Initialisation", 0, 1_000_000, key="init", help=_HELP["init"])
        st.number_input("Training images (0: all)", 0, 10_000_000, step=1000, key="train", help=_HELP["train"])
        left, right = st.columns(2)
        left.number_input("Images n", 1, 100_000, step=50, key="images", help=_HELP["images"])
        numbers = sorted({*THRESHOLDS, st.session_state["thresholds"]})
        right.selectbox("Thresholds", numbers, key="thresholds", help=_HELP["thresholds"])
        with left:
            _choose("Attack", "attack", ATTACKS)
        right.text_input("ε (pixels)", max_chars=12, placeholder="calibrated", key="epsilon", help=_HELP["epsilon"])
        _choose("Attack mode", "mode", MODES)
        st.toggle("Whole network as a row", key="whole", help=_HELP["whole"])
        st.toggle("Random control", key="control", help=_HELP["control"])
        if num_gpus() or st.session_state["device"] != "cpu":
            _choose("Device", "device", DEVICES)


def _draw_scoring() -> None:
    with st.sidebar:
        st.markdown("**Scoring** · re-labels at once")
        st.slider("Tolerance η", 0.0, 0.3, step=0.005, format="%.3f", key="tolerance", help=_HELP["tolerance"])
        _choose("Reference", "reference", REFERENCES)
        _choose("Normalise", "normalise", NORMALISATIONS)
        left, right = st.columns(2)
        with left:
            _choose("Integration", "integration", INTEGRATIONS)
        levels = sorted({*LEVELS, st.session_state["level"]})
        right.selectbox("Level", levels, key="level", format_func=lambda level: f"{100 * level:g}%")
        st.toggle("All intervals together", key="together", help=_HELP["together"])


def _choose(label: str, key: str, titles: Mapping[str, str]) -> None:
    st.selectbox(label, list(titles), format_func=lambda name: titles.get(name, name), key=key, help=_HELP.get(key))


def _dataset_note() -> None:
    try:
        state = dataset_state(st.session_state["dataset"])
    except FssError:
        st.caption("Not registered on this machine: only results from elsewhere can be shown.")
        return
    if state.state == "missing":
        command = f"fss data fetch {state.name}" if state.name in DATASETS else f"fss data add {state.name} PATH"
        st.caption(
            f"Not on this machine (`{command}` brings it): only published or imported results can be shown.",
            help=plain(state.detail),
        )
    elif state.state == "broken":
        st.caption(plain(state.detail))
