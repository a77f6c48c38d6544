"""Convolutions on small maps as one matrix product each, where the library's own are slow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW_PIXELS = 9
"""Pixels of the result up to which a 1 × 1 convolution is a product."""
_FEW_TAPS = 36
"""Taps of all windows up to which a convolution with a stride is one."""


class StandInConv(nn.Module, ABC):
    """What does a convolution on one map size in its place.

    Attributes:
        weight: what it multiplies with, made from the convolution's weight.
    """

    weight: nn.Parameter

    @abstractmethod
    def of_conv(self, weight: Tensor) -> Tensor:
        """Turn a convolution's weight (C', C, h, w) into what this multiplies with."""


class ProductConv(StandInConv):
    """A convolution on one map size as one matrix product.

    Args:
        conv: the convolution.
        reads: what is read from the maps: the windows of a convolution, or the whole map at once.
        output_size: (H', W').
    """

    def __init__(self, conv: nn.Conv2d, reads: Windows | WholeMap, output_size: tuple[int, int]) -> None:
        """Turn the convolution's weight into a matrix."""
        super().__init__()
        self._reads = reads
        self.output_shape = (*output_size, conv.out_channels)
        self.weight = nn.Parameter(self.of_conv(conv.weight.detach()).contiguous(), requires_grad=False)
        self.bias = None if conv.bias is None else reads.of_bias(conv.bias.detach())

    def of_conv(self, weight: Tensor) -> Tensor:
        """Turn a convolution's weight (C', C, h, w) into what is read → the result, (out, in)."""
        return self._reads.of_weight(weight)

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve ``maps`` (N, C, H, W), channels-last like the result."""
        read = self._reads.read(channels_last(maps)).reshape(-1, self.weight.shape[1])
        product = F.linear(read, self.weight, self.bias)
        return channels_first(product.view(len(maps), *self.output_shape))


@dataclass(frozen=True, slots=True)
class WholeMap:
    """A map seen at once, each pixel of the result through a window of its own.

    Attributes:
        taps: which tap lies between a pixel of the result and one of the map, from 0, (H' × W', H × W).
        size: (H', W').
        has_gaps: between some lies none, for which there is a number beyond the taps.
    """

    taps: Tensor
    size: tuple[int, int]
    has_gaps: bool

    @classmethod
    def of(cls, conv: nn.Conv2d, map_size: tuple[int, int]) -> WholeMap:
        """See through a convolution's windows."""
        num_taps = torch.Size(conv.kernel_size).numel()
        pixels = torch.eye(torch.Size(map_size).numel()).view(-1, 1, *map_size)
        numbers = torch.arange(1.0, num_taps + 1).view(1, 1, *conv.kernel_size)
        seen = F.conv2d(pixels, numbers, None, conv.stride, conv.padding, conv.dilation)
        taps = (seen.flatten(1).t().round().long() - 1) % (num_taps + 1)
        height, width = seen.shape[2:]
        return cls(taps.to(conv.weight.device), (height, width), bool((taps == num_taps).any()))

    def read(self, maps: Tensor) -> Tensor:
        """(N, H, W, C) as it is."""
        return maps

    def of_weight(self, weight: Tensor) -> Tensor:
        """(C', C, h, w) → (H' × W' × C', H × W × C)."""
        taps = channels_last(weight).flatten(1, 2)
        if self.has_gaps:
            taps = F.pad(taps, (0, 0, 0, 1))
        chosen = taps.index_select(1, self.taps.flatten()).view(len(taps), len(self.taps), -1)
        return chosen.transpose(0, 1).flatten(0, 1)

    def of_bias(self, bias: Tensor) -> Tensor:
        """(C',) → (H' × W' × C',)."""
        return bias.repeat(len(self.taps))


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows through which a convolution looks at a map; attributes are (height, width).

    Attributes:
        size: taps of a window.
        step: pixels from window to window.
        apart: pixels from tap to tap.
        padding: rows and columns of zeros on either side.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    apart: tuple[int, int]
    padding: tuple[int, int]

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Windows:
        """Describe a convolution with one tap or a stride: only another could be padded to keep its map's size."""
        padding = (0, 0) if isinstance(conv.padding, str) else conv.padding
        return cls(*((int(own[0]), int(own[1])) for own in (conv.kernel_size, conv.stride, conv.dilation, padding)))

    def number(self, map_size: tuple[int, ...]) -> tuple[int, int]:
        """Count the windows on a map of (H, W) pixels."""
        height, width = (
            (pixels + 2 * padding - apart * (size - 1) - 1) // step + 1
            for pixels, size, step, apart, padding in zip(
                map_size, self.size, self.step, self.apart, self.padding, strict=True
            )
        )
        return height, width

    def read(self, maps: Tensor) -> Tensor:
        """Lay the taps of each window side by side: (N, H, W, C) → (N, H', W', taps × C)."""
        height, width = self.number(maps.shape[1:3])
        down, right = self.padding
        if down or right:
            maps = F.pad(maps, (0, 0, right, right, down, down))
        taps = [
            maps[
                :,
                row : row + self.step[0] * height : self.step[0],
                column : column + self.step[1] * width : self.step[1],
            ]
            for row in range(0, self.size[0] * self.apart[0], self.apart[0])
            for column in range(0, self.size[1] * self.apart[1], self.apart[1])
        ]
        return torch.cat(taps, -1) if len(taps) > 1 else taps[0]

    def of_weight(self, weight: Tensor) -> Tensor:
        """(C', C, h, w) → (C', h × w × C)."""
        return channels_last(weight).flatten(1)

    def of_bias(self, bias: Tensor) -> Tensor:
        """(C',) as it is."""
        return bias


def as_product(conv: nn.Conv2d, input_shape: tuple[int, ...]) -> ProductConv | None:
    """Make a convolution a matrix product, where that was faster on a CPU, on maps of this size.

    - of whole maps, where a map has fewer pixels than the kernel has taps, since most taps then read padding;
    - of windows, where there are few: oneDNN is slow there, most of all with a stride.

    Beside minimal filtering (:mod:`fss_core.winograd`), which predictions prefer: without products ResNet-18 takes 1.4
    times (32 × 32) and 1.03 times (64 × 64), ResNet-50 2.0 times as long on two AVX2 cores:
    ``python -m benchmarks.ideas``, which lists each convolution, too.

    Args:
        conv: any convolution.
        input_shape: (C, H, W) of its input.

    Returns:
        What gives the same result, or ``None``.
    """
    if conv.groups > 1 or conv.padding_mode != "zeros":
        return None
    height, width = input_shape[1:]
    num_taps = torch.Size(conv.kernel_size).numel()
    if height * width < num_taps:
        whole = WholeMap.of(conv, (height, width))
        return ProductConv(conv, whole, whole.size)
    strided = set(conv.stride) != {1}
    if num_taps > 1 and not strided:
        return None
    windows = Windows.of(conv)
    number = windows.number((height, width))
    num_windows = torch.Size(number).numel()
    if (num_taps == 1 and num_windows <= _FEW_PIXELS) or (strided and num_windows * num_taps <= _FEW_TAPS):
        return ProductConv(conv, windows, number)
    return None


def channels_last(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C), without copying."""
    return maps.permute(0, 2, 3, 1)


def channels_first(maps: Tensor) -> Tensor:
    """(N, H, W, C) → (N, C, H, W), without copying: what torch calls the channels-last format."""
    return maps.permute(0, 3, 1, 2)
