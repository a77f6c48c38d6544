"""Thresholds and the synaptic filters: which weights of a layer are set to zero.

Every filter removes a run of consecutive ranks from some order of the layer's weights: high-pass the lowest, low-pass
the highest, a pulse a run in the middle, and the random control the first few of a shuffled order. Hence one mechanism,
:class:`LayerFilters`, serves all four, and two filters that remove the same live weights can be seen to be the same
network without building it.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from fss_core.conditions import exact
from fss_core.specs import FilterRow

HISTOGRAM_BINS = 200


def _threshold_is_a_number(threshold: float) -> None:
    if np.isnan(threshold):
        raise ValueError("threshold must be a number, got NaN")


def layer_thresholds(weight: Tensor, num_thresholds: int = 25) -> npt.NDArray[np.float64]:
    """Spread thresholds evenly over a layer's signed weights, from the smallest to the largest.

    Args:
        weight: any shape, floating point.
        num_thresholds: A, at least 2.

    Returns:
        float64 (A,), in the units of ``weight``; the ends are the smallest and the largest weight exactly.

    Raises:
        ValueError: fewer than 2 thresholds.

    Source: Pravin et al. 2024; METHOD, "threshold α".

    >>> layer_thresholds(torch.tensor([-1.0, 0.0, 1.0]), 5).tolist()
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    """
    if num_thresholds < 2:
        raise ValueError(f"num_thresholds must be at least 2, got {num_thresholds}")
    low, high = (float(bound) for bound in torch.aminmax(weight.detach()))
    return np.linspace(low, high, num_thresholds, dtype=np.float64)


def pulse_edges(thresholds: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Put one edge between each two thresholds, and one at either infinity: pulse k lies in [e_k, e_{k+1}).

    Args:
        thresholds: float64 (A,), ascending.

    Returns:
        float64 (A + 1,), ascending.

    Source: METHOD, "synaptic filter": every weight belongs to exactly one pulse.

    >>> pulse_edges(np.array([0.0, 1.0, 2.0])).tolist()
    [-inf, 0.5, 1.5, inf]
    """
    return np.concatenate(([-np.inf], (thresholds[:-1] + thresholds[1:]) / 2, [np.inf]))


def high_pass(weight: Tensor, threshold: float) -> Tensor:
    """Zero every weight at or below a threshold (the high-pass synaptic filter).

    Args:
        weight: any shape, floating point; not modified.
        threshold: in the units of ``weight``; weights equal to it are removed.

    Returns:
        A new tensor like ``weight``.

    Raises:
        ValueError: ``threshold`` is NaN.

    Source: Pravin et al. 2024, high-pass filter; strictness as in METHOD.

    >>> high_pass(torch.tensor([-1.0, 0.0, 1.0]), 0.0).tolist()
    [0.0, 0.0, 1.0]
    """
    _threshold_is_a_number(threshold)
    return weight.masked_fill((exact(weight) <= threshold).to(weight.device), 0)


def low_pass(weight: Tensor, threshold: float) -> Tensor:
    """Zero every weight at or above a threshold (the low-pass synaptic filter).

    Args:
        weight: any shape, floating point; not modified.
        threshold: in the units of ``weight``; weights equal to it are removed.

    Returns:
        A new tensor like ``weight``.

    Raises:
        ValueError: ``threshold`` is NaN.

    Source: Pravin et al. 2024, low-pass filter; strictness as in METHOD.

    >>> low_pass(torch.tensor([-1.0, 0.0, 1.0]), 0.0).tolist()
    [-1.0, 0.0, 0.0]
    """
    _threshold_is_a_number(threshold)
    return weight.masked_fill((exact(weight) >= threshold).to(weight.device), 0)


def pulse(weight: Tensor, low: float, high: float) -> Tensor:
    """Zero every weight in a half-open interval (the pulse synaptic filter).

    Args:
        weight: any shape, floating point; not modified.
        low: lower edge; weights equal to it are removed.
        high: upper edge; weights equal to it are kept.

    Returns:
        A new tensor like ``weight``.

    Raises:
        ValueError: an edge is NaN.

    Source: Pravin et al. 2024, pulse filter; edges as in METHOD.

    >>> pulse(torch.tensor([-1.0, 0.0, 1.0]), 0.0, 1.0).tolist()
    [-1.0, 0.0, 1.0]
    """
    _threshold_is_a_number(low)
    _threshold_is_a_number(high)
    values = exact(weight)
    return weight.masked_fill(((values >= low) & (values < high)).to(weight.device), 0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Removal:
    """What one filter at one threshold removes from a layer: a run of ranks in an order of its weights.

    Attributes:
        order: which order the ranks refer to: 0 by value, 1 + draw for the random control.
        start: first rank removed.
        stop: first rank kept again; equal to ``start`` when nothing is removed.
    """

    order: int
    start: int
    stop: int


Signature = tuple[int, int, int]
"""Names a filtered layer by its live weights: (order, live ranks before, live ranks up to the end)."""

UNFILTERED: Signature = (0, 0, 0)
"""The signature of a layer that has all its live weights."""


class LayerFilters:
    """All filters of one layer, at all thresholds.

    Args:
        weight: the layer's raw weights, any shape, floating point; not modified.
        live: bool, like ``weight``: False where a weight cannot change the output.
        num_thresholds: A.
        name: the layer's name; with ``seed`` it decides the random control's draws.
        seed: of the random control.
        device: where weights are filtered, and sorted if it is an NVIDIA GPU.

    Raises:
        ValueError: fewer than 2 thresholds.

    Source: METHOD, "Words".
    """

    def __init__(
        self, weight: Tensor, live: Tensor, *, num_thresholds: int, name: str = "", seed: int = 0, device: str = "cpu"
    ) -> None:
        """Sort the weights once."""
        self.weight = weight.detach().to(device)
        self.name = name
        self.seed = seed
        self.thresholds = layer_thresholds(weight, num_thresholds)
        self.num_weights = weight.numel()
        raw = self.weight if self.weight.is_cuda else weight.detach().cpu()  # other devices may round tiny weights to 0
        self._live = (live.to(raw.device) & (raw != 0)).flatten()
        self.num_live = int(self._live.sum())
        values, by_value = torch.sort(raw.flatten(), stable=True)
        self._orders: dict[int, tuple[Tensor, npt.NDArray[np.int64]]] = {0: self._index(by_value)}
        sorted_values = exact(values).numpy()
        self._not_above = np.searchsorted(sorted_values, self.thresholds, side="right")
        self._below = np.searchsorted(sorted_values, self.thresholds, side="left")
        self._pulse_starts = np.searchsorted(sorted_values, pulse_edges(self.thresholds), side="left")
        self.histogram_edges: npt.NDArray[np.float64] = np.histogram_bin_edges(sorted_values, bins=HISTOGRAM_BINS)
        starts = np.searchsorted(sorted_values, self.histogram_edges[:-1], side="left")
        self.histogram: npt.NDArray[np.int64] = np.diff(starts, append=self.num_weights)

    def _index(self, order: Tensor) -> tuple[Tensor, npt.NDArray[np.int64]]:
        """For an order of the weights: each weight's rank in it, on the device; live weights that precede each rank."""
        ranks = torch.empty_like(order, dtype=torch.int32)
        ranks[order] = torch.arange(self.num_weights, dtype=torch.int32, device=order.device)
        live_before = np.concatenate(([0], np.cumsum(self._live[order].cpu().numpy(), dtype=np.int64)))
        return ranks.to(self.weight.device), live_before

    def _order(self, order: int) -> tuple[Tensor, npt.NDArray[np.int64]]:
        if order not in self._orders:
            identity = hashlib.sha256(f"{self.seed}/{self.name}/{order}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(identity[:8], "big") >> 1)
            drawn = torch.randperm(self.num_weights, generator=generator)
            self._orders[order] = self._index(drawn.to(self._live.device))
        return self._orders[order]

    def removal(self, row: FilterRow, threshold_index: int) -> Removal:
        """Say what a filter removes at threshold k.

        Args:
            row: the filter, and the draw of the random control.
            threshold_index: k, from 0 to A − 1.

        Returns:
            The ranks removed.
        """
        k = threshold_index
        if row.filter == "high_pass":
            return Removal(order=0, start=0, stop=int(self._not_above[k]))
        if row.filter == "low_pass":
            return Removal(order=0, start=int(self._below[k]), stop=self.num_weights)
        if row.filter == "pulse":
            return Removal(order=0, start=int(self._pulse_starts[k]), stop=int(self._pulse_starts[k + 1]))
        return Removal(order=1 + row.draw, start=0, stop=int(self._not_above[k]))

    def num_kept(self, removal: Removal) -> tuple[int, int]:
        """Count the weights, and the live weights, that are left."""
        _, live_before = self._order(removal.order)
        num_live_removed = int(live_before[removal.stop] - live_before[removal.start])
        return self.num_weights - (removal.stop - removal.start), self.num_live - num_live_removed

    def signature(self, removal: Removal) -> Signature:
        """Name what is left, so that filters that leave the same live weights have the same name."""
        _, live_before = self._order(removal.order)
        first, last = int(live_before[removal.start]), int(live_before[removal.stop])
        if first == last:
            return UNFILTERED
        if last - first == self.num_live:
            return (0, 0, self.num_live)
        return (removal.order, first, last)

    def apply(self, removal: Removal) -> Tensor:
        """Return the filtered weights, a new tensor like ``weight`` on the device."""
        ranks, _ = self._order(removal.order)
        removed = (ranks >= removal.start) & (ranks < removal.stop)
        return self.weight.masked_fill(removed.view_as(self.weight), 0)
