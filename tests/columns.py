"""Made-up epochs, data sets and networks to be compared; what filtering does to each layer is that of ``pictures``."""

from __future__ import annotations

from pathlib import Path

import bars
from pictures import DATASET, EPOCH, EPSILON, NETWORK, make_checkpoint, write

from fss_core.data import register_folder
from fss_core.store import Store

OTHER_DATASET, OTHER_NETWORK, OTHER_EPSILON = "bars2", "resnet18", 8 / 255
EARLY, ELSEWHERE, UNMEASURED = 1, 0, 3
"""Epochs: measured at the ε of epoch 2, measured at another ε only, and trained only."""

LIKE_EARLY = {"hurts": "helps", "helps": "idle"}
"""At the early epoch these layers do what others do later: decided calls differ."""

PLACES = {
    "hurts": ("stem", 0.0),
    "idle": ("3x3", 0.3),
    "helps": ("1x1", 0.5),
    "slightly": ("3x3", 0.7),
    "dead": ("1x1", 0.8),
    "more": ("1x1", 0.9),
    "last": ("classifier", 1.0),
}
OTHER_PLACES = PLACES | {"hurts": ("stem", 0.1)}
LIKE_OTHERS = {"more": "helps", "last": "hurts"}


def make_cache(cache: Path, images: Path) -> None:
    """Make a cache directory that holds all of it; FSS_CACHE_DIR must name it."""
    folder = bars.make_folder(images)
    for name in (DATASET, OTHER_DATASET):
        register_folder(name, folder)
    layers = tuple(PLACES)
    with Store() as store:
        write(store, make_checkpoint(), layers=layers, like=LIKE_OTHERS, places=PLACES)
        early = make_checkpoint(EARLY)
        write(store, early, layers=layers, like=LIKE_OTHERS | LIKE_EARLY, places=PLACES, calibrated=False)
        elsewhere = make_checkpoint(ELSEWHERE)
        write(store, elsewhere, layers=layers, like=LIKE_OTHERS, places=PLACES, epsilon=3 / 255)
        make_checkpoint(UNMEASURED)
        other = make_checkpoint(dataset=OTHER_DATASET)
        like = LIKE_OTHERS | {"idle": "helps"}
        write(store, other, layers=layers, like=like, places=PLACES, epsilon=OTHER_EPSILON)
        network = make_checkpoint(network=OTHER_NETWORK)
        write(store, network, layers=layers, like=LIKE_OTHERS | {"helps": "hurts"}, places=OTHER_PLACES)


__all__ = ["DATASET", "EPOCH", "EPSILON", "NETWORK", "make_cache"]
