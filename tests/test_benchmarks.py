"""What the benchmarks count: operations by hand."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from benchmarks.bounds import Bounding, Speeds

NOT_COUNTED = math.inf
"""Infinitely fast."""


@pytest.mark.parametrize(
    ("run", "num_bytes"),
    [
        (lambda maps: maps.relu(), 2 * 24),
        (lambda maps: maps.relu_(), 2 * 24),
        (lambda maps: maps.add_(maps), 3 * 24),
        (lambda maps: maps + torch.ones(()), 2 * 24 + 1 + 1),
        (lambda maps: torch.add(maps, maps, out=torch.empty(6, 4)), 3 * 24),
        (lambda maps: maps.t().flip(0), 2 * 24),
        (lambda maps: maps.t()[1:].unsqueeze(0).expand(5, -1, -1), 0),
        (lambda maps: maps.new_empty(100), 0),
        (lambda maps: maps.reshape(3, 8), 0),
        (lambda maps: maps.t().reshape(3, 8), 2 * 24),
        (lambda maps: maps[:1].expand(6, 4) + maps, 3 * 24),
    ],
)
def test_what_an_operation_reads_and_writes_takes_time(run: Callable[[Tensor], object], num_bytes: int) -> None:
    maps = torch.ones(6, 4)
    with Bounding(Speeds(products=NOT_COUNTED, copies=4.0)) as bounding:
        run(maps)
    assert bounding.seconds == num_bytes


@pytest.mark.parametrize(
    ("run", "num_products"),
    [
        (lambda maps: torch.nn.functional.linear(maps, torch.ones(5, 4), torch.ones(5)), 6 * 4 * 5),
        (lambda maps: maps @ torch.ones(4, 3), 6 * 4 * 3),
        (lambda maps: torch.ones(2, 6, 6) @ maps, 2 * 6 * 6 * 4),
        (lambda maps: torch.nn.functional.conv2d(maps.view(1, 1, 6, 4), torch.ones(7, 1, 3, 3)), 4 * 2 * 9 * 7),
        (lambda maps: maps.relu(), 0),
    ],
)
def test_products_take_time(run: Callable[[Tensor], object], num_products: int) -> None:
    maps = torch.ones(6, 4)
    with torch.no_grad(), Bounding(Speeds(products=2.0, copies=NOT_COUNTED)) as bounding:
        run(maps)
    assert bounding.seconds == num_products
