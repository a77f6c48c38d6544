"""Filtering Score Studio's core: which layers break, hold or improve when their weights are filtered away.

Everything listed in ``__all__`` is imported on first use, so that importing this package loads neither torch nor
pandas.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fss_core.attacks import attack, calibrate_epsilon
    from fss_core.checkpoints import find_checkpoint, load_network
    from fss_core.data import load_dataset
    from fss_core.flow import Flow, find_measured
    from fss_core.invariance import Invariance, measure_invariance
    from fss_core.measuring import measure_responses
    from fss_core.models import build_network
    from fss_core.responses import Responses
    from fss_core.retraining import Retraining, RetrainingSpec, compare, find_retrained, retrain, verdict
    from fss_core.scores import Scores, score_responses
    from fss_core.specs import AttackSpec, FssError, MeasurementSpec, ResponseSpec, ScoreSpec, TrainingSpec
    from fss_core.store import Store
    from fss_core.training import train

__version__ = "0.1.0"

_HOMES = {
    "AttackSpec": "specs",
    "Flow": "flow",
    "FssError": "specs",
    "Invariance": "invariance",
    "MeasurementSpec": "specs",
    "ResponseSpec": "specs",
    "Responses": "responses",
    "Retraining": "retraining",
    "RetrainingSpec": "retraining",
    "ScoreSpec": "specs",
    "Scores": "scores",
    "Store": "store",
    "TrainingSpec": "specs",
    "attack": "attacks",
    "build_network": "models",
    "calibrate_epsilon": "attacks",
    "compare": "retraining",
    "find_checkpoint": "checkpoints",
    "find_measured": "flow",
    "find_retrained": "retraining",
    "load_dataset": "data",
    "load_network": "checkpoints",
    "measure_invariance": "invariance",
    "measure_responses": "measuring",
    "retrain": "retraining",
    "score_responses": "scores",
    "train": "training",
    "verdict": "retraining",
}

__all__ = [
    "AttackSpec",
    "Flow",
    "FssError",
    "Invariance",
    "MeasurementSpec",
    "ResponseSpec",
    "Responses",
    "Retraining",
    "RetrainingSpec",
    "ScoreSpec",
    "Scores",
    "Store",
    "TrainingSpec",
    "attack",
    "build_network",
    "calibrate_epsilon",
    "compare",
    "find_checkpoint",
    "find_measured",
    "find_retrained",
    "load_dataset",
    "load_network",
    "measure_invariance",
    "measure_responses",
    "retrain",
    "score_responses",
    "train",
    "verdict",
]


def __getattr__(name: str) -> Any:
    """Import a public name's module when the name is first used."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
