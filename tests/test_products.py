"""What stands in for a convolution on a small map does the same, forward and backward."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fss_core.products import as_product


def convolution(in_channels: int, out_channels: int, size: int, **settings: Any) -> nn.Conv2d:
    torch.manual_seed(0)
    return nn.Conv2d(in_channels, out_channels, size, **settings).requires_grad_(False)


def maps_for(conv: nn.Conv2d, height: int, width: int) -> Tensor:
    return torch.randn(5, conv.in_channels, height, width).contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("conv", "height", "width"),
    [
        (convolution(6, 5, 1), 2, 2),
        (convolution(6, 5, 1), 3, 3),
        (convolution(6, 5, 3, padding=1), 1, 1),
        (convolution(6, 5, 3, padding=1), 2, 2),
        (convolution(6, 5, 3, padding=1), 2, 4),
        (convolution(6, 5, 3, padding=1, stride=2, bias=False), 2, 2),
        (convolution(6, 5, 3, padding=1, stride=2), 4, 4),
        (convolution(6, 5, 3, padding=(1, 2), stride=(2, 3), dilation=(2, 1), bias=False), 5, 4),
        (convolution(6, 5, 3, padding="valid", stride=(1, 2)), 3, 5),
        (convolution(6, 5, 1, stride=2), 12, 11),
        (convolution(6, 5, 1, padding=1, stride=3), 4, 4),
        (convolution(6, 5, 5, padding="same"), 3, 4),
        (convolution(6, 5, 3, padding=2, dilation=2), 2, 2),
    ],
)
def test_it_convolves(conv: nn.Conv2d, height: int, width: int) -> None:
    shape = (conv.in_channels, height, width)
    instead = as_product(conv, shape)
    assert instead is not None
    maps = maps_for(conv, height, width).requires_grad_(True)
    expected, got = conv(maps), instead(maps)
    assert got.shape == expected.shape
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(got, expected, atol=1e-5)
    assert torch.allclose(instead(maps.detach().contiguous()), expected, atol=1e-5)
    towards = torch.randn(expected.shape)
    (wanted,), (found,) = (torch.autograd.grad(own, maps, towards) for own in (expected, got))
    assert torch.allclose(found, wanted, atol=1e-5)


@pytest.mark.parametrize(
    ("conv", "height", "width"),
    [
        (convolution(6, 5, 3, padding=1), 3, 3),
        (convolution(6, 6, 3, padding=1, groups=2), 2, 2),
        (convolution(6, 5, 3, padding=1, padding_mode="circular"), 2, 2),
        (convolution(6, 5, 1), 4, 4),
        (convolution(6, 5, 1, stride=2), 13, 12),
        (convolution(6, 5, 3, padding=1, stride=2), 5, 4),
    ],
)
def test_other_convolutions_are_done_as_they_are(conv: nn.Conv2d, height: int, width: int) -> None:
    assert as_product(conv, (conv.in_channels, height, width)) is None
