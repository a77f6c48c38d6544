"""Convolutions by fewer products than taps do what the library's do, with other weights too, and only predict."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fss_core.engines import make_engine
from fss_core.fast_engine import FastEngine
from fss_core.winograd import WinogradConv, by_winograd

CHANNELS = 48


def convolution(in_channels: int = CHANNELS, out_channels: int = CHANNELS, size: int = 3, **settings: Any) -> nn.Conv2d:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return nn.Conv2d(in_channels, out_channels, size, **{"padding": 1, **settings}).requires_grad_(False)


def difference(got: Tensor, expected: Tensor) -> float:
    """Say how far values are from others, in standard deviations of these."""
    return float((got - expected).abs().max() / expected.std())


def check(conv: nn.Conv2d, instead: WinogradConv, height: int, width: int) -> None:
    """Compare with the library's convolution in float64."""
    maps = torch.randn(3, conv.in_channels, height, width).contiguous(memory_format=torch.channels_last)
    exact = nn.Conv2d(
        conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, bias=conv.bias is not None
    ).double()
    exact.load_state_dict(conv.state_dict())
    with torch.no_grad():
        expected = exact(maps.double())
    with torch.no_grad():
        got = instead(maps)
    assert got.shape == expected.shape
    assert got.dtype == torch.float32
    assert got.is_contiguous(memory_format=torch.channels_last)
    assert torch.allclose(instead(maps.contiguous()), got, rtol=0, atol=1e-5)
    assert difference(got, expected) < 3e-5


@settings(deadline=None)
@given(
    height=st.integers(2, 19),
    width=st.integers(2, 12),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    bias=st.booleans(),
)
def test_it_convolves_maps_of_any_size(height: int, width: int, padding: tuple[int, int], bias: bool) -> None:
    conv = convolution(padding=padding, bias=bias)
    instead = by_winograd(conv, (CHANNELS, height, width))
    if height + 2 * padding[0] < 4 or width + 2 * padding[1] < 4:
        assert instead is None
    else:
        assert instead is not None
        check(conv, instead, height, width)


@pytest.mark.parametrize("padding", ["same", "valid"])
def test_padding_has_names(padding: str) -> None:
    conv = convolution(CHANNELS, 50, padding=padding)
    instead = by_winograd(conv, (CHANNELS, 6, 9))
    assert instead is not None
    check(conv, instead, 6, 9)


def test_another_weight_can_be_put_in() -> None:
    conv, other = convolution(), convolution()
    other.weight.mul_(2).sub_(0.01)
    instead = by_winograd(conv, (CHANNELS, 8, 8))
    assert instead is not None
    instead.weight.data = instead.of_conv(other.weight.contiguous(memory_format=torch.channels_last))
    check(other, instead, 8, 8)


@pytest.mark.parametrize(
    ("pixels", "products"), [(2, 3), (3, 5), (4, 6), (5, 10), (6, 10), (7, 12), (8, 12), (9, 15), (16, 24)]
)
def test_it_needs_fewer_products_than_taps(pixels: int, products: int) -> None:
    instead = by_winograd(convolution(), (CHANNELS, pixels, 4))
    assert instead is not None
    assert instead.num_products == products * 6 * CHANNELS**2
    taps_on_map = 3 * pixels - 2
    assert products < taps_on_map


@pytest.mark.parametrize(
    ("conv", "height", "width"),
    [
        (convolution(stride=2), 8, 8),
        (convolution(dilation=2), 8, 8),
        (convolution(groups=2), 8, 8),
        (convolution(padding_mode="reflect"), 8, 8),
        (convolution(size=1), 8, 8),
        (convolution(size=5), 8, 8),
        (convolution(in_channels=47), 8, 8),
        (convolution(out_channels=47), 8, 8),
        (convolution(), 1, 8),
        (convolution(), 8, 13),
        (convolution(padding=3), 8, 8),
        (convolution().double(), 8, 8),
        (convolution(padding=0), 3, 8),
    ],
)
def test_other_convolutions_are_done_as_they_are(conv: nn.Conv2d, height: int, width: int) -> None:
    assert by_winograd(conv, (conv.in_channels, height, width)) is None


class Residual(nn.Module):
    """A block whose activations and sum can be written over what the convolutions made."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1) for _ in range(2))
        self.stem, self.classify = nn.Conv2d(3, CHANNELS, 3, padding=1), nn.Linear(CHANNELS, 4)

    def forward(self, pixels: Tensor) -> Tensor:
        maps = self.stem(pixels).relu()
        maps = (self.second(self.first(maps).relu()) + maps).relu()
        logits: Tensor = self.classify(maps.mean((2, 3)))
        return logits


@pytest.mark.parametrize(("arithmetic", "expected"), [("float32", 2), ("bf16", 0)])
def test_an_engine_uses_it_in_float32(arithmetic: Any, expected: int) -> None:
    model = Residual().eval()
    engine = make_engine("fast", model, (3, 8, 8), arithmetic=arithmetic)
    assert isinstance(engine, FastEngine)
    for purpose, number in (("predictions", expected), ("gradients", 0)):
        network = engine.plan(["second"], purpose).whole  # type: ignore[arg-type]
        assert sum(isinstance(module, WinogradConv) for module in network.modules()) == number
