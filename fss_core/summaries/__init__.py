"""The numbers a person sees: responses and scores → plain values, counts and words, ready to be drawn or written.

Pages do no arithmetic, so whatever they show is computed here, without torch, pandas or Plotly: ``tiles.py`` a whole
measurement in a few numbers, ``grids.py`` scores by layer, ``maps.py`` scores resolved by threshold, ``curves.py`` one
layer's response, ``areas.py`` a score as an area, ``drilldown.py`` one filter at one threshold.
"""

from __future__ import annotations

from fss_core.summaries.areas import ScoreArea, score_area
from fss_core.summaries.curves import (
    ControlBand,
    ControlCurve,
    ResponseCurve,
    ResponseCurves,
    control_band,
    join_control,
    response_curves,
)
from fss_core.summaries.drilldown import (
    ChangeCounts,
    ChangedImage,
    ChangedImages,
    PredictionChange,
    RemovedWeights,
    changed_images,
    removed_weights,
)
from fss_core.summaries.grids import GRID_FILTERS, ScoreCell, ScoreGrid, filter_title, layer_title, score_grid
from fss_core.summaries.maps import ThresholdMap, threshold_map
from fss_core.summaries.tiles import (
    Accuracy,
    CallCounts,
    DeadShare,
    count_calls,
    dead_share,
    letter,
    unfiltered_accuracy,
)

__all__ = [
    "GRID_FILTERS",
    "Accuracy",
    "CallCounts",
    "ChangeCounts",
    "ChangedImage",
    "ChangedImages",
    "ControlBand",
    "ControlCurve",
    "DeadShare",
    "PredictionChange",
    "RemovedWeights",
    "ResponseCurve",
    "ResponseCurves",
    "ScoreArea",
    "ScoreCell",
    "ScoreGrid",
    "ThresholdMap",
    "changed_images",
    "control_band",
    "count_calls",
    "dead_share",
    "filter_title",
    "join_control",
    "layer_title",
    "letter",
    "removed_weights",
    "response_curves",
    "score_area",
    "score_grid",
    "threshold_map",
    "unfiltered_accuracy",
]
