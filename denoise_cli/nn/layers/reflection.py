"""Padding by reflection: the picture mirrored at its edge pixels, which are not repeated."""

import torch
from torch import Tensor

from denoise_cli.nn.kernels.geometry import Pair


def reflect(x: Tensor, frame: Pair) -> Tensor:
    """(N, H, W, C) -> (N, H + 2 frame, W + 2 frame, C); a frame is narrower than the picture."""
    for axis, width in zip((1, 2), frame, strict=True):
        x = x.index_select(axis, _mirror(x.shape[axis], width, x.device))
    return x


def reflect_adjoint(dy: Tensor, frame: Pair) -> Tensor:
    """The gradient of `reflect`: what a pixel was copied to adds up."""
    for axis, width in zip((1, 2), frame, strict=True):
        size = dy.shape[axis] - 2 * width
        shape = list(dy.shape)
        shape[axis] = size
        dy = dy.new_zeros(shape).index_add_(axis, _mirror(size, width, dy.device), dy)
    return dy


def _mirror(size: int, width: int, device: torch.device) -> Tensor:
    """width, ..., 1, 0, 1, ..., size - 1, size - 2, ..., size - 1 - width."""
    distance = torch.arange(-width, size + width, device=device).abs()
    return (size - 1) - ((size - 1) - distance).abs()
