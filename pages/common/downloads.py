"""What can be taken away: numbers as files, figures as pages that work offline."""

from __future__ import annotations

import io
import re
from dataclasses import asdict
from typing import Any

import streamlit as st

from fss_core import exports
from fss_core.explore import Picture, PictureScores, portable
from fss_core.figures.style import standalone_html
from fss_core.scores import score_responses
from pages.common.frame import is_dark


def figure_button(figure: Any, key: str, title: str, label: str = "Save as HTML") -> None:
    """Offer a figure as a page that needs no network, and saves PNG and SVG; it is made when the button is pressed."""
    dark = is_dark()
    st.download_button(
        label,
        lambda: standalone_html(figure, title, dark=dark).encode(),
        f"fss-{key}.html",
        "text/html",
        key=f"save_{key}",
        on_click="ignore",
        type="tertiary",
    )


def draw(picture: Picture, scores: PictureScores) -> None:
    """Offer the numbers of a picture, once there are any."""
    if not picture.layers.responses.layers:
        return
    spec = picture.layers.spec
    name = re.sub(
        r"[^a-z0-9_-]+", "-", f"fss-{spec.training.network}-{spec.training.dataset}-epoch{spec.epoch}".lower()
    )

    def whole() -> bytes:
        target = io.BytesIO()
        measured = portable(picture)
        exports.export_zip(measured, score_responses(measured.responses, **asdict(scores.layers.spec)), target)
        return target.getvalue()

    with st.container(horizontal=True, gap="small"):
        st.download_button(
            "Scores (CSV)",
            lambda: exports.to_csv(*(own.to_dataframe() for own in scores.all)),
            f"{name}-scores.csv",
            "text/csv",
            key="save_csv",
            on_click="ignore",
        )
        st.download_button(
            "Responses (CSV)",
            lambda: exports.to_csv(*(own.to_dataframe() for own in picture.all)),
            f"{name}-responses.csv",
            "text/csv",
            key="save_responses",
            on_click="ignore",
        )
        st.download_button(
            "Everything (ZIP of Parquet and manifest)",
            whole,
            f"{name}.zip",
            "application/zip",
            key="save_zip",
            on_click="ignore",
        )
