"""A study small enough to be done in seconds: SqueezeNet, hardly trained, on an image folder of 28×28 bars."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import numpy as np
from PIL import Image

from fss_core.data import register_folder
from fss_core.store import Store
from fss_core.study import presets, running
from fss_core.study.cells import Cell, CellRetraining
from fss_core.study.presets import Preset
from fss_core.study.running import StudyProgress, run_study

DATASET, NAME = "wide-bars", "small"

CELL = Cell(
    network="squeezenet1_1",
    dataset=DATASET,
    epochs=(0, 1),
    num_images=12,
    num_thresholds=2,
    num_train=120,
    retraining=CellRetraining(budget=1, rules=("all", "last_layer", "fragile"), num_report_images=30),
)
SECOND = Cell(
    network="squeezenet1_1",
    dataset=DATASET,
    epochs=(1,),
    num_images=10,
    num_thresholds=2,
    num_train=120,
    whole=False,
    control=True,
    round=2,
)
ELSEWHERE = Cell(network="resnet18", dataset="cifar10", epochs=(1,), num_images=10, num_thresholds=2)

PRESET = Preset(name=NAME, title="Small", cells=(ELSEWHERE, CELL, SECOND), notes=("Of no meaning.",))


def make_folder(root: Path) -> Path:
    """Write 160 training and 200 test images of four classes."""
    rng = np.random.default_rng(0)
    for part, number in (("train", 40), ("test", 50)):
        for label, name in enumerate("abcd"):
            folder = root / part / name
            folder.mkdir(parents=True)
            for index in range(number):
                pixels = rng.integers(0, 60, (28, 28))
                pixels[7 * label : 7 * label + 7] += 150
                Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{index:03}.png")
    return root


def make_cache(root: Path) -> Path:
    """Make a cache directory with the data set registered; FSS_CACHE_DIR must name it."""
    register_folder(DATASET, make_folder(root / "images"))
    return root


def run_and_be_killed(directory: str) -> None:
    """Do the study until the first epoch is half measured, and die."""

    def kill(now: StudyProgress) -> None:
        own = now.progress
        if own is not None and own.stage == "measure" and own.done > 0.4 * own.total:
            os.kill(os.getpid(), signal.SIGKILL)

    with Store() as store:
        run_study(store, PRESET, Path(directory), on_progress=kill)


def install(monkeypatch: object) -> None:
    """Let it be asked for by name; ``monkeypatch`` needs a ``setitem`` only."""
    monkeypatch.setitem(presets.PRESETS, NAME, lambda: PRESET)  # type: ignore[attr-defined]


def stop_after(monkeypatch: object, num_tasks: int) -> None:
    """Let the budget end when so many tasks have been begun."""
    asked = iter(range(num_tasks))
    monkeypatch.setattr(running._CellRun, "_is_over", lambda _: next(asked, None) is None)  # type: ignore[attr-defined]
