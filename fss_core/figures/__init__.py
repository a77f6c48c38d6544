"""Numbers → Plotly figures; no Streamlit.

Every figure comes in a light and a dark design on a transparent ground, to be shown with Streamlit's own theme off
(``theme=None``), and has a sentence that says the same to those who do not see it (``*_alt``).
"""

from __future__ import annotations

from fss_core.figures.agreement import (
    agreement_heatmap,
    agreement_heatmap_alt,
    column_headings,
    place_of_point,
    tau_matrix,
    tau_matrix_alt,
)
from fss_core.figures.areas import area_alt, area_figure, calls_alt, calls_figure
from fss_core.figures.attacks import attack_alt, attack_figure, sweep_alt, sweep_figure
from fss_core.figures.coverage import coverage_alt, coverage_chart, mark_rule
from fss_core.figures.curves import histogram_alt, histogram_figure, response_alt, response_figure
from fss_core.figures.errata import change_alt, change_figure
from fss_core.figures.grids import (
    CLICK_CONFIG,
    MOST_CELLS,
    cell_of_point,
    headings_legend,
    score_heatmap,
    score_heatmap_alt,
)
from fss_core.figures.images import images_alt, images_figure
from fss_core.figures.maps import threshold_heatmap, threshold_heatmap_alt
from fss_core.figures.retraining import (
    checkpoints_alt,
    checkpoints_figure,
    retraining_alt,
    retraining_figure,
)
from fss_core.figures.style import SAVE_CONFIG, enlarged, standalone_html
from fss_core.figures.trajectories import (
    MOST_TRAJECTORIES,
    profile_alt,
    profile_figure,
    trajectories_alt,
    trajectories_figure,
)
from fss_core.figures.verdicts import verdicts_alt, verdicts_figure

__all__ = [
    "CLICK_CONFIG",
    "MOST_CELLS",
    "MOST_TRAJECTORIES",
    "SAVE_CONFIG",
    "agreement_heatmap",
    "agreement_heatmap_alt",
    "area_alt",
    "area_figure",
    "attack_alt",
    "attack_figure",
    "calls_alt",
    "calls_figure",
    "cell_of_point",
    "change_alt",
    "change_figure",
    "checkpoints_alt",
    "checkpoints_figure",
    "column_headings",
    "coverage_alt",
    "coverage_chart",
    "enlarged",
    "headings_legend",
    "histogram_alt",
    "histogram_figure",
    "images_alt",
    "images_figure",
    "mark_rule",
    "place_of_point",
    "profile_alt",
    "profile_figure",
    "response_alt",
    "response_figure",
    "retraining_alt",
    "retraining_figure",
    "score_heatmap",
    "score_heatmap_alt",
    "standalone_html",
    "sweep_alt",
    "sweep_figure",
    "tau_matrix",
    "tau_matrix_alt",
    "threshold_heatmap",
    "threshold_heatmap_alt",
    "trajectories_alt",
    "trajectories_figure",
    "verdicts_alt",
    "verdicts_figure",
]
