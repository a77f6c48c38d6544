"""Which report images a network gets right: clean, attacked, and attacked on the network it once was."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from fss_core.attacks import evaluating, run_attack
from fss_core.conditions import full_precision
from fss_core.data import Split
from fss_core.retraining.results import Judged, Judgement
from fss_core.retraining.spec import judging_attacks

IMAGES_PER_PASS = 100

OnPass = Callable[[str, float], None]
"""Called before each pass with what is made, and the share of a judgement that is done; what it raises stops it."""


class Judge:
    """Judges networks on the first images of a report split.

    Args:
        before: the network before retraining, whose FGSM images the others are shown; left as it is, and not kept.
        report: the split.
        num_images: how many of its images.
        epsilon: of FGSM and PGD, in pixels.
        device: where the networks live.
        on_pass: see ``OnPass``.

    Source: METHOD, "Selective retraining" and "Adversarial images".
    """

    def __init__(
        self, before: nn.Module, report: Split, num_images: int, epsilon: float, *, device: str, on_pass: OnPass
    ) -> None:
        """Attack the network before retraining."""
        self._attacks = judging_attacks(epsilon)
        self._pixels = report.pixels(0, num_images)
        self._labels = torch.from_numpy(np.array(report.labels[:num_images]))
        self._device = device
        self._on_pass = on_pass
        self._transfer = self._attack(before, "fgsm", (0.0, 0.0))

    def judge(self, network: nn.Module) -> Judgement:
        """Judge one network; it is left as it is.

        Returns:
            What it gets right of each kind of image.
        """
        right: dict[Judged, npt.NDArray[np.bool_]] = {
            "clean": self._right(network, self._pixels),
            "transfer": self._right(network, self._transfer),
            # One step of PGD costs what FGSM does.
            "fgsm": self._right(network, self._attack(network, "fgsm", (0.0, 0.1))),
            "pgd": self._right(network, self._attack(network, "pgd", (0.1, 1.0))),
        }
        return Judgement.of(right)

    def _passes(self) -> list[slice]:
        return [slice(start, start + IMAGES_PER_PASS) for start in range(0, len(self._labels), IMAGES_PER_PASS)]

    def _attack(self, network: nn.Module, kind: Literal["fgsm", "pgd"], shares: tuple[float, float]) -> Tensor:
        """Make adversarial images, which brings a judgement from one share to another."""
        parts = []
        passes = self._passes()
        first, last = shares
        for index, own in enumerate(passes):
            self._on_pass(f"{kind.upper()} images", first + (last - first) * index / len(passes))
            pixels, labels = self._pixels[own].to(self._device), self._labels[own].to(self._device)
            parts.append(run_attack(network, pixels, labels, self._attacks[kind]).pixels.cpu())
        return torch.cat(parts)

    def _right(self, network: nn.Module, pixels: Tensor) -> npt.NDArray[np.bool_]:
        with evaluating(network), full_precision(), torch.no_grad():
            predicted = [network(pixels[own].to(self._device)).argmax(1).cpu() for own in self._passes()]
        right: npt.NDArray[np.bool_] = (torch.cat(predicted) == self._labels).numpy()
        return right
