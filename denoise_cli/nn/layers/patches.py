"""Overlapping patches, each mapped by itself, and their results averaged."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import product

import torch
from torch import Tensor

from denoise_cli.nn.layers.containers import Wrapper, inside
from denoise_cli.nn.layers.shuffle import depth_to_space, space_to_depth
from denoise_cli.nn.layout import empty, from_rows, to_rows
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


@layer(
    "patches",
    Example(
        {"size": 2, "stride": 1, "body": [{"linear": {"in_features": 8, "out_features": 12}}]}, (2, 2, 4, 3)
    ),
    Example({"size": 4, "stride": 2, "body": ["tanh", "elu"]}, (1, 2, 6, 8)),
    Example({"size": 2, "stride": 2, "body": ["tanh"]}, (1, 1, 4, 2)),
)
class Patches(Wrapper):
    """Maps every `size` x `size` patch at multiples of `stride`, and averages the results where they overlap.

    `body` maps (rows, C size^2) to (rows, C' size^2), a row a patch: (N, C, H, W) -> (N, C', H, W). With G
    for "gather the patches" and n for how many patches cover a pixel,

        y = G^T body(G x) / n,    dx = G^T body.backward(G (dy / n)).

    This is how multilayer perceptrons denoise (Burger et al., CVPR 2012). `size` must be a multiple of
    `stride`, height and width too, and no less than `size`.
    """

    fresh_output = True
    fresh_gradient = True

    def __init__(self, size: int, body: Module, stride: int = 1) -> None:
        super().__init__(body)
        if min(size, stride) < 1 or size % stride:
            raise ValueError(f"size must be a multiple of stride, got {size} and {stride}")
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        shape = self.output_shape(x.shape)
        y = self._scatter(self.body.forward(self._gather(x)), shape)
        return y.div_(self._coverage(y))

    def backward(self, dy: Tensor) -> Tensor:
        d_rows = self.body.backward(self._gather(dy / self._coverage(dy)))
        if not self.needs_input_gradient:
            return d_rows
        N, _, H, W = dy.shape
        return self._scatter(d_rows, (N, d_rows.shape[1] // self.size**2, H, W))

    def _windows(self, shape: Shape) -> Iterator[tuple[slice, slice]]:
        """For each way to lay a grid of patches side by side: the rows and the columns that it covers."""
        for starts in product(range(0, self.size, self.stride), repeat=2):
            counts = [(n - start) // self.size for n, start in zip(shape[2:], starts, strict=True)]
            if all(counts):
                y, x = (slice(s, s + n * self.size) for s, n in zip(starts, counts, strict=True))
                yield y, x

    def _gather(self, x: Tensor) -> Tensor:
        """G: (N, C, H, W) -> (patches, C size^2)"""
        grids = (
            space_to_depth(x[:, :, rows, columns], self.size) for rows, columns in self._windows(x.shape)
        )
        return torch.cat([to_rows(grid) for grid in grids])

    def _scatter(self, rows: Tensor, shape: Shape) -> Tensor:
        """G^T: (patches, C size^2) -> (N, C, H, W), the sum of all patches over a pixel."""
        y, done = empty(shape, rows).zero_(), 0
        for down, across in self._windows(shape):
            window = y[:, :, down, across]
            N, _, H, W = window.shape
            grid = (N, rows.shape[1], H // self.size, W // self.size)
            count = grid[0] * grid[2] * grid[3]
            window.add_(depth_to_space(from_rows(rows[done : done + count], grid), self.size))
            done += count
        return y

    def _coverage(self, like: Tensor) -> Tensor:
        """n, (1, 1, H, W)."""
        n = like.new_zeros(1, 1, *like.shape[2:])
        for rows, columns in self._windows(like.shape):
            n[:, :, rows, columns] += 1
        return n

    def _rows(self, shape: Shape) -> Shape:
        if len(shape) != 4 or min(shape[2:]) < self.size or any(n % self.stride for n in shape[2:]):
            raise ShapeError(
                f"expects (N, C, H, W) with sides that are multiples of {self.stride}, {self.size} at least,"
                f" got {tuple(shape)}"
            )
        N, C, H, W = shape
        down, across = ((n - self.size) // self.stride + 1 for n in (H, W))
        return N * down * across, C * self.size**2

    def output_shape(self, shape: Shape) -> Shape:
        rows = self._rows(shape)
        with inside("body"):
            after = self.body.output_shape(rows)
        if len(after) != 2 or after[0] != rows[0] or after[1] % self.size**2:
            raise ShapeError(
                f"the body must map {rows} to as many rows with a multiple of {self.size**2} features,"
                f" gives {tuple(after)}"
            )
        return shape[0], after[1] // self.size**2, *shape[2:]

    def macs(self, shape: Shape) -> int:
        with inside("body"):
            return self.body.macs(self._rows(shape))

    def reach(self, reach: Reach) -> Reach:
        self.body.reach(reach)  # for those who listen; what mixes features stays inside the patch
        after = reach.then(margin=self.size - 1)
        # patches repeat at every `stride`; a multiple of `size` makes the smallest picture large enough too
        return replace(after, period=reach.then(stride=self.size).period)
