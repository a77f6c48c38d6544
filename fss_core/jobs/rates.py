"""How long work takes: measured on this machine where it can be, scaled from what was measured where it cannot.

Work is counted in images that pass through a network: forward, or forward and backward (a step of training, a pass of
an attack). A rate is seconds per such image, for one network, image size, kind of device and number of threads.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

Work = Literal["forward", "backward"]
Basis = Literal["measured", "scaled", "typical"]

PASSES_OF_CALIBRATION = 11
"""Forward and backward passes of PGD (10 steps), and the forward passes around it."""

TYPICAL_SIZES_TRIED = 9
"""Sizes that the calibration of ε looks at before one is large enough."""

_TYPICAL_AREA, _TYPICAL_CORES = 32 * 32, 2
_TYPICAL: dict[str, tuple[int, float, float]] = {
    "resnet18": (21, 1 / 1630, 1 / 240),
    "resnet50": (54, 1 / 580, 1 / 110),
    "squeezenet1_1": (26, 1 / 10340, 1 / 1970),
    "shufflenet_v2_x1_0": (57, 1 / 6370, 1 / 730),
}
"""Layers, and seconds per image (forward; forward and backward) at 32×32 on two laptop cores, measured once."""

_TYPICAL_OTHER = (30, 1 / 1000, 1 / 200)


def typical_num_layers(network: str) -> int:
    """Say how many filterable layers a network has; a guess for one that is not the paper's."""
    return _TYPICAL.get(network, _TYPICAL_OTHER)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Who would do the work.

    Attributes:
        cores: processors that a wide task keeps busy.
        workers: tasks that are done side by side when they are not wide.
    """

    cores: int = 1
    workers: int = 1

    @property
    def threads(self) -> int:
        """Cores of one of several workers."""
        return max(self.cores // self.workers, 1)


def num_cores() -> int:
    """Count the processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Rate:
    """Seconds per image, and where the number comes from.

    Attributes:
        key: names the rate on the board.
        seconds: per image.
        basis: ``"measured"``: this work on this machine; ``"scaled"``: from other work on this machine;
            ``"typical"``: from another machine.
    """

    key: str
    seconds: float
    basis: Basis


class Rates:
    """What is known of the speed of a machine.

    Args:
        known: seconds per image by key, of :meth:`fss_core.jobs.board.Board.rates`.

    >>> rates = Rates({})
    >>> rates.find("forward", "resnet18", (3, 32, 32), "cpu", 2).basis
    'typical'
    """

    def __init__(self, known: Mapping[str, float]) -> None:
        """Keep what is known."""
        self._known = dict(known)

    def find(self, work: Work, network: str, shape: tuple[int, ...], device_type: str, threads: int) -> Rate:
        """Say how fast some work goes.

        Args:
            work: forward, or forward and backward.
            network: its name.
            shape: (C, H, W) of an image.
            device_type: kind of device.
            threads: processors it may use.
        """
        key = f"{work}/{network}/{'x'.join(map(str, shape))}/{device_type}/{threads}"
        if key in self._known:
            return Rate(key=key, seconds=self._known[key], basis="measured")
        ratios = [
            math.log(seconds / _typical(*_parse(other)))
            for other, seconds in self._known.items()
            if _is_like(key, other)
        ]
        typical = _typical(work, network, shape, threads)
        if not ratios:
            return Rate(key=key, seconds=typical, basis="typical")
        return Rate(key=key, seconds=typical * math.exp(sum(ratios) / len(ratios)), basis="scaled")


def _typical(work: Work, network: str, shape: tuple[int, ...], threads: int) -> float:
    _, forward, backward = _TYPICAL.get(network, _TYPICAL_OTHER)
    area = shape[-1] * shape[-2] / _TYPICAL_AREA
    return (forward if work == "forward" else backward) * max(area, 0.5) * _TYPICAL_CORES / threads


def _parse(key: str) -> tuple[Work, str, tuple[int, ...], int]:
    work, network, shape, _, threads = key.split("/")
    return ("forward" if work == "forward" else "backward"), network, tuple(map(int, shape.split("x"))), int(threads)


def _is_like(key: str, other: str) -> bool:
    """Say whether two rates are of the same kind of device."""
    return key.split("/")[3] == other.split("/")[3]
