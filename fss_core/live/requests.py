"""What can be asked of a network while somebody waits: bounded in size, so that the wait is short."""

from __future__ import annotations

from dataclasses import dataclass

from fss_core.specs import CONTROL_FILTER, SYNAPTIC_FILTERS, Filter, TrainingSpec, choose

LARGEST_NUM_IMAGES, LARGEST_NUM_THRESHOLDS, LARGEST_NUM_SIZES = 500, 49, 32
"""Beyond these nobody would wait: measure it instead."""


def _check(value: float, low: float, high: float, what: str) -> None:
    if not low <= value <= high:
        raise ValueError(f"{what} must lie from {low:g} to {high:g}, got {value}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Network:
    """Which network is asked.

    Attributes:
        training: its trajectory.
        epoch: its checkpoint.
        sha256: of the weights: a checkpoint that was made anew is another network.
    """

    training: TrainingSpec
    epoch: int
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Filtered:
    """One layer of a network, filtered at one threshold.

    Attributes:
        layer: its dotted name.
        filter: a synaptic filter.
        k: which threshold, from 0 to A − 1.
        num_thresholds: A.
    """

    layer: str
    filter: Filter
    k: int
    num_thresholds: int

    def __post_init__(self) -> None:
        """Refuse what is no filter."""
        choose(self.filter, SYNAPTIC_FILTERS, what="synaptic filter")
        _check(self.num_thresholds, 2, LARGEST_NUM_THRESHOLDS, "num_thresholds")
        _check(self.k, 0, self.num_thresholds - 1, "k")

    @property
    def position(self) -> float:
        """t, the position of the threshold on [0, 1]."""
        return self.k / (self.num_thresholds - 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class AttackRequest:
    """Asks for FGSM on some probe images, one of them in full.

    Attributes:
        network: which.
        epsilon: radius of the L∞ ball in pixels on [0, 1]; 0 for no attack.
        index: which of the images is wanted in full.
        num_images: N: the first N probe images are attacked.
        filtered: attack the network with this layer filtered; ``None`` for the network as it is.
    """

    network: Network
    epsilon: float
    index: int
    num_images: int
    filtered: Filtered | None = None

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        _check(self.epsilon, 0, 1, "epsilon")
        _check(self.num_images, 1, LARGEST_NUM_IMAGES, "num_images")
        _check(self.index, 0, self.num_images - 1, "index")


@dataclass(frozen=True, slots=True, kw_only=True)
class SweepRequest:
    """Asks which probe images a network gets right under FGSM of several sizes.

    Attributes:
        network: which.
        epsilons: in pixels on [0, 1]; 0 for no attack.
        num_images: N.
    """

    network: Network
    epsilons: tuple[float, ...]
    num_images: int

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        _check(len(self.epsilons), 1, LARGEST_NUM_SIZES, "the number of epsilons")
        for epsilon in self.epsilons:
            _check(epsilon, 0, 1, "epsilon")
        _check(self.num_images, 1, LARGEST_NUM_IMAGES, "num_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class RespondRequest:
    """Asks for the response of one layer to one filter, on frozen FGSM images.

    Attributes:
        network: which.
        layer: its dotted name.
        filter: a synaptic filter, or the random control.
        draw: of the control.
        num_thresholds: A.
        epsilon: of the attack, in pixels on [0, 1].
        num_images: N.
    """

    network: Network
    layer: str
    filter: Filter
    num_thresholds: int
    epsilon: float
    num_images: int
    draw: int = 0

    def __post_init__(self) -> None:
        """Refuse what is out of range."""
        choose(self.filter, (*SYNAPTIC_FILTERS, CONTROL_FILTER), what="filter")
        _check(self.num_thresholds, 2, LARGEST_NUM_THRESHOLDS, "num_thresholds")
        _check(self.draw, 0, 99 if self.filter == CONTROL_FILTER else 0, "draw")
        _check(self.epsilon, 1e-6, 1, "epsilon")
        _check(self.num_images, 1, LARGEST_NUM_IMAGES, "num_images")


@dataclass(frozen=True, slots=True, kw_only=True)
class LayersRequest:
    """Asks which layers of a network can be filtered."""

    network: Network


Request = AttackRequest | SweepRequest | RespondRequest | LayersRequest

REQUESTS: dict[str, type[Request]] = {
    "attack": AttackRequest,
    "sweep": SweepRequest,
    "respond": RespondRequest,
    "layers": LayersRequest,
}
"""By the name that they travel under."""
