"""Layers that only look at the same numbers in another shape."""

import math
from dataclasses import replace

from torch import Tensor

from denoise_cli.nn.layout import channels_last
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


@layer("flatten", Example(shape=(2, 3, 4, 5)), Example(shape=(3, 4)))
class Flatten(Module):
    """(N, ...) -> (N, features), in the order of torch: channels, rows, columns.

    Results may be views of the argument, so they are not `fresh`.
    """

    def forward(self, x: Tensor) -> Tensor:
        shape = self.output_shape(x.shape)
        self.save(x.shape)
        return x.reshape(shape)

    def backward(self, dy: Tensor) -> Tensor:
        (shape,) = self.saved()
        return channels_last(dy.reshape(shape))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2:
            raise ShapeError(f"expects (N, ...), got {tuple(shape)}")
        return shape[0], math.prod(shape[1:])

    def reach(self, reach: Reach) -> Reach:
        return replace(reach, margin=math.inf)
