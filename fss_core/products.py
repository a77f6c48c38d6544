"""Convolutions on small maps as one matrix product each, where the library's own are slow."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

_FEW_PIXELS = 9
"""Pixels of the result up to which a 1 × 1 convolution is a product."""
_FEW_TAPS = 36
"""Taps of all windows up to which a convolution with a stride is one."""


class ProductConv(nn.Module):
    """A convolution on one map size as one matrix product.

    Args:
        matrix: what is read from the maps → the result, (out, in).
        bias: of the result, (out,).
        output_shape: (H', W', C') of the result.
        windows: what is read from the maps: the windows of a convolution, or the whole map at once.
    """

    matrix: Tensor

    def __init__(
        self, matrix: Tensor, bias: Tensor | None, output_shape: tuple[int, ...], windows: Windows | None = None
    ) -> None:
        """Keep the matrix."""
        super().__init__()
        self.register_buffer("matrix", matrix.contiguous())
        self.bias = bias
        self.output_shape = output_shape
        self._windows = windows

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve ``maps`` (N, C, H, W), channels-last like the result."""
        read = channels_last(maps)
        if self._windows is not None:
            read = self._windows.read(read)
        product = F.linear(read.reshape(-1, self.matrix.shape[1]), self.matrix, self.bias)
        return channels_first(product.view(len(maps), *self.output_shape))


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


def as_product(conv: nn.Conv2d, input_shape: tuple[int, ...]) -> ProductConv | None:
    """Make a convolution a matrix product, where that was faster on a CPU, on maps of this size.

    - of whole maps, where a map has fewer pixels than the kernel has taps, since most taps then read padding;
    - of windows, where there are few: oneDNN is slow there, most of all with a stride.

    Without products the paper's networks take 1.4 (SqueezeNet) to 2.6 times (ResNet-50) as long on two cores with
    AVX-512: ``python -m benchmarks.ideas``, which lists each convolution, too.

    Args:
        conv: any convolution.
        input_shape: (C, H, W) of its input.

    Returns:
        What gives the same result, or ``None``.
    """
    if conv.groups > 1 or conv.padding_mode != "zeros":
        return None
    channels, height, width = input_shape
    num_taps = torch.Size(conv.kernel_size).numel()
    weight, bias = conv.weight.detach(), None if conv.bias is None else conv.bias.detach()
    if height * width < num_taps:
        units = torch.eye(channels * height * width, device=weight.device)
        images = channels_first(units.view(-1, height, width, channels))
        answers = channels_last(F.conv2d(images, weight, None, conv.stride, conv.padding, conv.dilation))
        bias = None if bias is None else bias.repeat(torch.Size(answers.shape[1:3]).numel())
        return ProductConv(answers.flatten(1).t(), bias, tuple(answers.shape[1:]))
    strided = set(conv.stride) != {1}
    if num_taps > 1 and not strided:
        return None
    windows = Windows.of(conv)
    number = windows.number((height, width))
    num_windows = torch.Size(number).numel()
    if (num_taps == 1 and num_windows <= _FEW_PIXELS) or (strided and num_windows * num_taps <= _FEW_TAPS):
        return ProductConv(channels_last(weight).flatten(1), bias, (*number, len(weight)), windows)
    return None


def channels_last(maps: Tensor) -> Tensor:
    """(N, C, H, W) → (N, H, W, C), without copying."""
    return maps.permute(0, 2, 3, 1)


def channels_first(maps: Tensor) -> Tensor:
    """(N, H, W, C) → (N, C, H, W), without copying: what torch calls the channels-last format."""
    return maps.permute(0, 3, 1, 2)
