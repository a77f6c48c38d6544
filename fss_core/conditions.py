"""Under which conditions a network runs: seed, arithmetic, device, and weights lent for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor, nn

from fss_core.specs import Arithmetic


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Run a block under a seed of its own and put torch's global random state back afterwards."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


@contextmanager
def computing_in(arithmetic: Arithmetic, device_type: str) -> Iterator[None]:
    """Choose, for a block, in what products are computed; float32 is kept on hardware that would shorten it.

    Args:
        arithmetic: as ``specs.ResponseSpec.arithmetic``.
        device_type: ``"cpu"``, ``"cuda"``, ``"mps"``.
    """
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = arithmetic == "tf32"
    try:
        with torch.autocast(device_type, dtype=torch.bfloat16, enabled=arithmetic == "bf16"):
            yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def full_precision(device_type: str = "cpu") -> AbstractContextManager[None]:
    """Keep float32 products in float32 for a block, also inside one that computes in something else on that device."""
    return computing_in("float32", device_type)


def check_device(device: str) -> None:
    """Refuse a device that this machine does not have.

    Args:
        device: torch's name: ``"cpu"``, ``"cuda"``, ``"cuda:1"``, ``"mps"``.

    Raises:
        ValueError: torch knows no such device, or cannot use it here.
    """
    try:
        torch.zeros(1, device=device).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ValueError(f"device must be one that torch can use here, got {device!r}; use cpu") from error


def device_of(model: nn.Module) -> torch.device:
    """Say where a network's weights lie."""
    return next(model.parameters(), torch.zeros(())).device


def exact(values: Tensor) -> Tensor:
    """Take values to the CPU, in float64, which some devices do not have.

    >>> exact(torch.tensor([0.5])).dtype
    torch.float64
    """
    return values.detach().cpu().double()


@contextmanager
def swapped(modules: Mapping[str, nn.Module], weights: Mapping[str, Tensor]) -> Iterator[None]:
    """Lend modules other weights for a block."""
    own = {name: _weight(modules[name]).data for name in weights}
    try:
        for name, weight in weights.items():
            _weight(modules[name]).data = weight
        yield
    finally:
        for name, weight in own.items():
            _weight(modules[name]).data = weight


def _weight(module: nn.Module) -> Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    return weight
