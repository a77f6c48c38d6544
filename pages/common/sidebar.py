"""The side bar that all views share: what is looked at, how it is scored, and the offer to measure it."""

from __future__ import annotations

from typing import Any

import streamlit as st

from fss_core.data import dataset_state
from fss_core.jobs.pool import num_gpus
from fss_core.specs import FssError
from pages.common.choices import ATTACKS, DEFAULTS, LEVELS, MODES, THRESHOLDS, known_datasets, known_networks

_BOUND: dict[str, Any] = {"bind": "query-params"}
_HELP = {
    "epoch": "Which checkpoint of the training: 0 is untrained. One that is not there yet is trained by Measure.",
    "init": "The seed of the initial weights and of the order of the images: another one is another network.",
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


def draw() -> None:
    """Draw the controls; what they say is read by ``choices.read_choices``."""
    datasets, networks = known_datasets(), known_networks()
    with st.sidebar:
        st.selectbox(
            "Network",
            list(networks),
            format_func=lambda name: networks[name],
            key="network",
            index=list(networks).index(str(DEFAULTS["network"])),
            **_BOUND,
        )
        st.selectbox(
            "Data set",
            list(datasets),
            format_func=lambda name: datasets[name],
            key="dataset",
            index=list(datasets).index(str(DEFAULTS["dataset"])),
            **_BOUND,
        )
        _dataset_note()
        left, right = st.columns(2)
        left.number_input("Epoch", 0, 1_000_000, int(DEFAULTS["epoch"]), key="epoch", help=_HELP["epoch"], **_BOUND)
        right.number_input(
            "Initialisation", 0, 1_000_000, int(DEFAULTS["init"]), key="init", help=_HELP["init"], **_BOUND
        )
        left.number_input(
            "Images n", 1, 100_000, int(DEFAULTS["images"]), step=50, key="images", help=_HELP["images"], **_BOUND
        )
        right.selectbox(
            "Thresholds",
            THRESHOLDS,
            index=THRESHOLDS.index(int(DEFAULTS["thresholds"])),
            key="thresholds",
            help=_HELP["thresholds"],
            **_BOUND,
        )
        left.selectbox("Attack", list(ATTACKS), format_func=ATTACKS.__getitem__, key="attack", **_BOUND)
        right.text_input(
            "ε (pixels)", "", max_chars=12, placeholder="calibrated", key="epsilon", help=_HELP["epsilon"], **_BOUND
        )
        st.selectbox(
            "Attack mode", list(MODES), format_func=MODES.__getitem__, key="mode", help=_HELP["mode"], **_BOUND
        )
        st.toggle("Whole network as a row", bool(DEFAULTS["whole"]), key="whole", help=_HELP["whole"], **_BOUND)
        st.toggle("Random control", bool(DEFAULTS["control"]), key="control", help=_HELP["control"], **_BOUND)
        if num_gpus():
            st.selectbox("Device", ["cuda", "cpu"], key="device", **_BOUND)


def draw_scoring() -> None:
    """Draw how results are scored: these controls re-label what is stored, at once."""
    with st.sidebar:
        st.markdown("**Scoring** · re-labels at once")
        st.slider(
            "Tolerance η",
            0.0,
            0.3,
            float(DEFAULTS["tolerance"]),
            0.005,
            format="%.3f",
            key="tolerance",
            help=_HELP["tolerance"],
            **_BOUND,
        )
        st.selectbox(
            "Reference",
            ["unfiltered", "retained"],
            key="reference",
            help=_HELP["reference"],
            **_BOUND,
            format_func={"unfiltered": "The unfiltered network", "retained": "Fraction of weights kept"}.__getitem__,
        )
        st.selectbox(
            "Normalise",
            ["chance", "p0", "none"],
            key="normalise",
            help=_HELP["normalise"],
            **_BOUND,
            format_func={
                "chance": "Accuracy above chance",
                "p0": "Relative accuracy",
                "none": "Accuracy points",
            }.__getitem__,
        )
        left, right = st.columns(2)
        left.selectbox("Integration", ["trapezoid", "simpson"], key="integration", format_func=str.capitalize, **_BOUND)
        right.selectbox(
            "Level",
            LEVELS,
            index=LEVELS.index(float(DEFAULTS["level"])),
            key="level",
            format_func=lambda level: f"{level:.0%}",
            **_BOUND,
        )
        st.toggle(
            "All intervals together", bool(DEFAULTS["together"]), key="together", help=_HELP["together"], **_BOUND
        )


def _dataset_note() -> None:
    try:
        state = dataset_state(st.session_state["dataset"])
    except FssError:
        st.caption("Not registered on this machine: only results from elsewhere can be shown.")
        return
    if state.state == "missing":
        st.caption(f"Not on this machine. `fss data fetch {state.name}` downloads it.")
    elif state.state == "broken":
        st.caption("Broken on this machine: `fss data list` says what to do.")
