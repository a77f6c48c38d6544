"""Pictures, read and scored once for all viewers."""

from __future__ import annotations

from dataclasses import replace

import streamlit as st

from fss_core.explore import Picture, PictureScores, find_picture, score_picture
from fss_core.jobs.requests import MeasureRequest
from fss_core.specs import ScoreSpec
from fss_core.store import Store
from pages.common.choices import Choices


@st.cache_resource(max_entries=8, show_spinner=False)
def read_picture(_store: Store, _request: MeasureRequest, key: str, version: tuple[object, ...]) -> Picture | None:
    """Read a picture once for all viewers, until there is more of it."""
    return find_picture(_store, _request)


def read_scores(picture: Picture, key: str, version: tuple[object, ...], chosen: Choices) -> PictureScores:
    """Score a picture once for all viewers; another tolerance, or another cell to look into, computes nothing anew.

    Raises:
        ValueError: the settings do not fit the number of thresholds.
    """
    return labelled(picture, key, version, chosen.score, chosen.simultaneous)


@st.cache_resource(max_entries=16, show_spinner=False)
def labelled(
    _picture: Picture, key: str, version: tuple[object, ...], spec: ScoreSpec, simultaneous: bool
) -> PictureScores:
    """Score a picture by settings; another tolerance only labels anew.

    Raises:
        ValueError: the settings do not fit the number of thresholds.
    """
    untolerant = replace(spec, tolerance=0.0)
    return _scores(_picture, key, version, untolerant, simultaneous).relabel(spec.tolerance)


@st.cache_resource(max_entries=16, show_spinner=False)
def _scores(
    _picture: Picture, key: str, version: tuple[object, ...], spec: ScoreSpec, simultaneous: bool
) -> PictureScores:
    return score_picture(_picture, spec, simultaneous=simultaneous)
