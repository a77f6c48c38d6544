"""Convolutions of 3 × 3 taps by fewer products than taps (Winograd's minimal filtering), where that is faster.

Along one axis, m results of three taps need m + 2 products instead of 3 m: what is read and the taps are each turned
into m + 2 sums, these are multiplied, and sums of the products are the results. On a map that is done along both axes,
and what is multiplied for all channels are matrices. Padding is no more than sums of fewer pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from numpy.polynomial import polynomial
from torch import Tensor, nn

from fss_core.products import StandInConv, channels_last

_TAPS = 3
_POINTS = (0.0, 0.75, -0.75, 1.5, -1.5)
"""Where polynomials are evaluated: exact in binary, with half the rounding errors of the usual 0, ±1, ±2."""
_LONGEST_TILE = 4
"""Results done at once along an axis: with 6, rounding errors are three times as large."""
_FEW_CHANNELS = 48
"""Channels, in and out, from which on what is saved in products outweighs the sums."""


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
class _Part:
    """Some neighbouring rows of a map, and the n sums that are made of them, or that they are made of.

    Attributes:
        rows: which.
        matrix: rows → sums, or sums → rows.
    """

    rows: slice
    matrix: Tensor

    @classmethod
    def read(cls, matrix: npt.NDArray[np.float64]) -> _Part:
        """Keep the rows that (n, rows) reads."""
        used = np.flatnonzero(matrix.any(axis=0))
        rows = slice(int(used[0]), int(used[-1]) + 1)
        return cls(rows, _matrix(matrix[:, rows]))

    def transposed(self) -> _Part:
        return replace(self, matrix=self.matrix.t())


def _matrix(values: npt.NDArray[np.float64]) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))


@dataclass(frozen=True, slots=True)
class _Filtering:
    """Sums, products, and sums of these, a row of tiles at a time.

    Attributes:
        tiles: the rows that each row of tiles reads, and those that it writes to.
        read: columns → what is multiplied across, (n × tiles, W).
        write: products across → columns, (W', n × tiles).
        num_rows: H'.
    """

    tiles: tuple[tuple[_Part, _Part], ...]
    read: Tensor
    write: Tensor
    num_rows: int

    @classmethod
    def of(cls, rows: _Axis, columns: _Axis) -> _Filtering:
        """Filter along both axes of a map."""
        tiles = zip(rows.read, rows.write, strict=True)
        across = len(columns.read) * len(columns.taps)
        return cls(
            tiles=tuple((_Part.read(read), _Part.read(write.T).transposed()) for read, write in tiles),
            read=_matrix(columns.read.swapaxes(0, 1).reshape(across, -1)),
            write=_matrix(columns.write.transpose(1, 2, 0).reshape(-1, across)),
            num_rows=rows.write.shape[1],
        )

    def transposed(self) -> _Filtering:
        """What brings a gradient back to the map."""
        return _Filtering(
            tiles=tuple((write.transposed(), read.transposed()) for read, write in self.tiles),
            read=self.write.t(),
            write=self.read.t(),
            num_rows=max(read.rows.stop for read, _ in self.tiles),
        )

    def __call__(self, maps: Tensor, taps: Tensor, bias: Tensor | float) -> Tensor:
        """Multiply sums of (N, C, H, W), channels-last, with taps (n × n, C, C'): (N, C', H', W'), channels-last."""
        num_images, channels, _, width = maps.shape
        made, across = taps.shape[2], len(self.write)
        result = torch.empty((num_images, made, self.num_rows, across), memory_format=torch.channels_last)
        maps, results = channels_last(maps), channels_last(result)
        written = 0
        for reads, writes in self.tiles:
            read = maps[:, reads.rows].permute(1, 2, 0, 3)  # images beside channels: sums go over rows and columns
            rows = reads.matrix @ read.reshape(len(read), -1)
            kinds = len(rows)
            sums = self.read.expand(kinds, -1, -1) @ rows.view(kinds, width, -1)
            products = sums.view(len(taps), -1, channels) @ taps
            back = self.write.expand(kinds, -1, -1) @ products.view(kinds, -1, num_images * made)
            part = (writes.matrix @ back.flatten(1)).view(-1, across, num_images, made).permute(2, 0, 1, 3)
            again = written - writes.rows.start  # rows that the tiles before wrote to, too: of a gradient
            results[:, writes.rows.start : written] += part[:, :again]
            torch.add(part[:, again:], bias, out=results[:, written : writes.rows.stop])
            written = writes.rows.stop
        return result


class _Filter(torch.autograd.Function):
    """Differentiable in the maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, filtering: _Filtering, taps: Tensor, bias: Tensor | float) -> Tensor:
        ctx.filtering, ctx.taps = filtering, taps
        return filtering(maps, taps, bias)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        return ctx.filtering.transposed()(gradients[0], ctx.taps.transpose(1, 2), 0.0), None, None, None


class WinogradConv(StandInConv):
    """A convolution of 3 × 3 taps on one map size, by minimal filtering, on a CPU.

    Args:
        conv: without stride, dilation or groups, padded with zeros.
        rows: of the map.
        columns: of the map.
    """

    def __init__(self, conv: nn.Conv2d, rows: _Axis, columns: _Axis) -> None:
        """Turn the convolution's weight into what is multiplied."""
        super().__init__()
        self._filtering = _Filtering.of(rows, columns)
        self._taps = torch.from_numpy(np.kron(rows.taps, columns.taps))
        self.register_buffer("weight", self.of_conv(conv.weight.detach().double()).float())
        self.bias = 0.0 if conv.bias is None else conv.bias.detach()

    @property
    def num_products(self) -> int:
        """Products for one image."""
        tiles_across = len(self._filtering.read) * len(self._filtering.tiles[0][0].matrix) // len(self.weight)
        return self.weight.numel() * len(self._filtering.tiles) * tiles_across

    def of_conv(self, weight: Tensor) -> Tensor:
        """Turn a convolution's weight (C', C, 3, 3) into what sums of pixels are multiplied with, (n × n, C', C)."""
        taps = weight.permute(2, 3, 0, 1).reshape(_TAPS**2, -1)
        return (self._taps.to(taps.dtype) @ taps).view(-1, *weight.shape[:2])

    def forward(self, maps: Tensor) -> Tensor:
        """Convolve ``maps`` (N, C, H, W), channels-last like the result."""
        taps = self.weight.transpose(1, 2)
        return _Filter.apply(maps, self._filtering, taps, self.bias)  # type: ignore[no-any-return]


def by_winograd(conv: nn.Conv2d, input_shape: tuple[int, ...]) -> WinogradConv | None:
    """Do a convolution by minimal filtering, where that was faster on a CPU, on maps of this size.

    Args:
        conv: any convolution.
        input_shape: (C, H, W) of its input.

    Returns:
        What gives the same result up to rounding errors, about twice those of the library; or ``None``.
    """
    plain = conv.groups == 1 and set(conv.stride) == {1} == set(conv.dilation) and conv.padding_mode == "zeros"
    if conv.kernel_size != (_TAPS, _TAPS) or not plain or conv.weight.device.type != "cpu":
        return None
    if min(conv.in_channels, conv.out_channels) < _FEW_CHANNELS:
        return None
    padding = {"same": (1, 1), "valid": (0, 0)}[conv.padding] if isinstance(conv.padding, str) else conv.padding
    sizes = [(pixels, int(own)) for pixels, own in zip(input_shape[1:], padding, strict=True)]
    if any(pixels < 2 or pixels + 2 * own < _TAPS + 1 for pixels, own in sizes):
        return None
    rows, columns = (_Axis.of(*size) for size in sizes)
    return WinogradConv(conv, rows, columns)
