"""Convolutions of 3 × 3 taps by fewer products than taps (Winograd's minimal filtering), where that is faster.

Along one axis, m results of three taps need m + 2 products instead of 3 m: what is read and the taps are each turned
into m + 2 sums, these are multiplied, and sums of the products are the results. On a map that is done along both axes,
and what is multiplied for all channels are matrices. Padding is no more than sums of fewer pixels.

Rounding errors are about twice those of the library's convolutions, and are left also where exact results are zero. So
it is for predictions only: in gradients, of which attacks take the signs, zeros matter.

Without it ResNet-18 takes 1.3 times (32 × 32) and 1.5 times (64 × 64) as long on two AVX2 cores, single convolutions
1.3 to 4.5 times: ``python -m benchmarks.ideas``, which lists each.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from numpy.polynomial import polynomial
from torch import Tensor, nn

from fss_core.products import StandInConv, channels_first, channels_last

_TAPS = 3
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where polynomials are evaluated: exact in binary, with half the rounding errors of the usual 0, ±1, ±2."""
_LONGEST_TILE = 4
"""Results done at once along an axis: with 6, rounding errors are three times as large."""
_FEW_CHANNELS = 48
"""Channels, in and out, from which on what is saved in products outweighs the sums."""
_CHANNELS_PER_COLUMN = 4
"""Likewise, for each column of the map: across, sums are made of whole rows. Fewer were not tried."""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Minimal filtering along one axis of a map, tile by tile, as matrices.

    Attributes:
        read: pixels → the n sums of each tile that are multiplied, (tiles, n, pixels).
        taps: taps → what they are multiplied with, (n, 3).
        write: the n products of each tile → results, (tiles, results, n).
    """

    read: npt.NDArray[np.float64]
    taps: npt.NDArray[np.float64]
    write: npt.NDArray[np.float64]

    @classmethod
    def of(cls, pixels: int, padding: int) -> _Axis:
        """Cover an axis with the tiles that need fewest products; it has at least two results."""
        results = pixels + 2 * padding + 1 - _TAPS
        if pixels == results == 2:  # of taps a, b, c: b(x + y) + (c − b)y and b(x + y) + (a − b)x
            read, taps = ((1, 1), (0, 1), (1, 0)), ((0, 1, 0), (0, -1, 1), (1, -1, 0))
            write = ((1, 1, 0), (1, 0, 1))
            return cls(np.array([read], float), np.array(taps, float), np.array([write], float))
        longest = min(range(2, _LONGEST_TILE + 1), key=lambda size: -(-results // size) * (size + _TAPS - 1))
        reading, own_taps, writing = _minimal_filtering(longest)
        starts = range(0, results, longest)
        read_all = np.zeros((len(starts), len(reading), pixels + 2 * padding + longest))
        write_all = np.zeros((len(starts), len(starts) * longest, len(reading)))
        for index, start in enumerate(starts):
            read_all[index, :, start : start + len(reading)] = reading
            write_all[index, start : start + longest] = writing
        return cls(read_all[:, :, padding : padding + pixels], own_taps, write_all[:, :results])


def _minimal_filtering(results: int) -> tuple[npt.NDArray[np.float64], ...]:
    """Return Cook and Toom's matrices for some results of three taps: (n, n) to read, (n, 3) of taps, (results, n).

    Source: Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks" (2016); the points, this project.
    """
    points = np.array(_POINTS[: results + _TAPS - 2])
    size = len(points) + 1
    read, taps, write = np.zeros((size, size)), np.zeros((size, _TAPS)), np.zeros((results, size))
    for index, point in enumerate(points):
        others = np.delete(points, index)
        read[index, :-1] = polynomial.polyfromroots(others)
        taps[index] = point ** np.arange(_TAPS) / np.prod(point - others)
        write[:, index] = point ** np.arange(results)
    read[-1] = polynomial.polyfromroots(points)
    taps[-1, -1] = write[-1, -1] = 1
    return read, taps, write


@dataclass(frozen=True, slots=True)
class _Tiles:
    """A row of tiles.

    Attributes:
        reads: which of the map's rows.
        read: these → n sums of them, (n, rows).
        writes: which rows of the result.
        write: n products → these, (rows, n).
    """

    reads: slice
    read: Tensor
    writes: slice
    write: Tensor

    @classmethod
    def of(cls, read: npt.NDArray[np.float64], write: npt.NDArray[np.float64]) -> _Tiles:
        """Keep the rows that (n, rows) reads and (results, n) writes."""
        reads, writes = _used(read.T), _used(write)
        return cls(reads, _matrix(read[:, reads]), writes, _matrix(write[writes]))


def _used(rows: npt.NDArray[np.float64]) -> slice:
    used = np.flatnonzero(rows.any(axis=1))
    return slice(int(used[0]), int(used[-1]) + 1)


def _matrix(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


class WinogradConv(StandInConv):
    """A convolution of 3 × 3 taps on one map size, by minimal filtering, in float32 on a CPU; gives no gradients.

    Args:
        conv: without stride, dilation or groups, padded with zeros.
        map_size: (H, W).
        padding: rows and columns of zeros on either side.
    """

    def __init__(self, conv: nn.Conv2d, map_size: tuple[int, int], padding: tuple[int, int]) -> None:
        """Turn the convolution's weight into what is multiplied."""
        super().__init__()
        rows, columns = (_Axis.of(*own) for own in zip(map_size, padding, strict=True))
        across = columns.read.shape[0] * columns.read.shape[1]
        self._map_size = map_size
        self._rows = tuple(_Tiles.of(*own) for own in zip(rows.read, rows.write, strict=True))
        self._read = _matrix(columns.read.swapaxes(0, 1).reshape(across, -1))
        self._write = _matrix(columns.write.transpose(1, 2, 0).reshape(-1, across))
        self._taps = torch.from_numpy(np.kron(rows.taps, columns.taps))
        self._num_rows = rows.write.shape[1]
        self.weight = nn.Parameter(self.of_conv(conv.weight.detach()), requires_grad=False)
        self.bias = 0.0 if conv.bias is None else conv.bias.detach()
        self.num_products = self.weight.numel() * len(rows.read) * len(columns.read)
        """For one image."""

    def of_conv(self, weight: Tensor) -> Tensor:
        """Turn a convolution's weight (C', C, 3, 3) into what sums of pixels are multiplied with, (n × n, C', C)."""
        taps = weight.permute(2, 3, 0, 1).reshape(_TAPS**2, -1)
        return (self._taps.to(taps.dtype) @ taps).view(-1, *weight.shape[:2])

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve ``maps`` (N, C, H, W), channels-last like the result (N, C', H', W')."""
        num_images, channels, *size = maps.shape
        assert tuple(size) == self._map_size
        taps, across = self.weight.transpose(1, 2), len(self._write)
        made = taps.shape[2]
        result = maps.new_empty(num_images, self._num_rows, across, made)
        for tiles in self._rows:
            pixels = channels_last(maps)[:, tiles.reads].permute(1, 2, 0, 3)  # sums go over rows, then over columns
            rows = tiles.read @ pixels.reshape(len(pixels), -1)
            kinds = len(rows)
            sums = self._read.expand(kinds, -1, -1) @ rows.view(kinds, size[1], -1)
            products = sums.view(len(taps), -1, channels) @ taps
            rows = self._write.expand(kinds, -1, -1) @ products.view(kinds, -1, num_images * made)
            results = (tiles.write @ rows.flatten(1)).view(-1, across, num_images, made)
            torch.add(results.permute(2, 0, 1, 3), self.bias, out=result[:, tiles.writes])
        return channels_first(result)


def by_winograd(conv: nn.Conv2d, input_shape: tuple[int, ...]) -> WinogradConv | None:
    """Do a convolution by minimal filtering, where that was faster on a CPU, on maps of this size.

    Args:
        conv: any convolution.
        input_shape: (C, H, W) of its input.

    Returns:
        What gives the same result up to rounding errors; or ``None``. It keeps up to four times the weight.
    """
    plain = conv.groups == 1 and set(conv.stride) == {1} == set(conv.dilation) and conv.padding_mode == "zeros"
    on_cpu = conv.weight.device.type == "cpu" and conv.weight.dtype == torch.float32
    if conv.kernel_size != (_TAPS, _TAPS) or not plain or not on_cpu:
        return None
    height, width = input_shape[1:]
    channels = min(conv.in_channels, conv.out_channels)
    if channels < _FEW_CHANNELS or channels < _CHANNELS_PER_COLUMN * width:
        return None
    named = {"same": (1, 1), "valid": (0, 0)}
    down, right = named[conv.padding] if isinstance(conv.padding, str) else conv.padding
    if max(down, right) >= _TAPS or min(height, width) < 2 or min(height + 2 * down, width + 2 * right) <= _TAPS:
        return None
    return WinogradConv(conv, (height, width), (int(down), int(right)))
