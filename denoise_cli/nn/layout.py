"""Channels-last memory: a pixel's channels lie side by side, so that a picture is rows of channels."""

import torch
from torch import Tensor

from denoise_cli.nn.kernels import memory
from denoise_cli.nn.module import Shape


def empty(shape: Shape, like: Tensor) -> Tensor:
    """An uninitialised tensor of `like`'s dtype and device: channels-last if 4-D, else contiguous."""
    if len(shape) != 4:
        return memory.empty(tuple(shape), like)
    N, C, H, W = shape
    return memory.empty((N, H, W, C), like).permute(0, 3, 1, 2)


def empty_like(x: Tensor) -> Tensor:
    """An uninitialised tensor of x's shape."""
    return empty(x.shape, x)


def copy(x: Tensor) -> Tensor:
    """A copy in memory of its own, where `channels_last` may return `x` itself."""
    return empty_like(x).copy_(x)


def channels_last(x: Tensor) -> Tensor:
    """`x` itself, or its copy with channels-last memory where it is 4-D and has not."""
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def to_rows(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N * H * W, C): a view where the memory is channels-last, else a copy."""
    return x.permute(0, 2, 3, 1).reshape(-1, x.shape[1])


def from_rows(rows: Tensor, shape: Shape) -> Tensor:
    """(N * H * W, C) -> (N, C, H, W) for the N, H and W of `shape`: a view."""
    N, _, H, W = shape
    return rows.view(N, H, W, -1).permute(0, 3, 1, 2)
