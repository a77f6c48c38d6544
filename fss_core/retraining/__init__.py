"""Selective retraining: train what a rule chooses, keep the rest truly frozen, and compare rules at equal budget.

Importing this package, and looking results up, imports no torch.
"""

from fss_core.retraining.comparing import Comparison, compare, compare_epochs
from fss_core.retraining.lookup import find_retrained
from fss_core.retraining.results import JUDGED, Judgement, Retraining
from fss_core.retraining.rules import RULES
from fss_core.retraining.running import RetrainingProgress, retrain, retrain_seeds
from fss_core.retraining.spec import RetrainingSpec
from fss_core.retraining.verdicts import Verdict, verdict

__all__ = [
    "JUDGED",
    "RULES",
    "Comparison",
    "Judgement",
    "Retraining",
    "RetrainingProgress",
    "RetrainingSpec",
    "Verdict",
    "compare",
    "compare_epochs",
    "find_retrained",
    "retrain",
    "retrain_seeds",
    "verdict",
]
