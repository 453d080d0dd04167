"""The linear layer."""

import math
from dataclasses import replace

import torch
from torch import Tensor

from denoise_cli.nn.initialisation import Initialisation
from denoise_cli.nn.layout import channels_last
from denoise_cli.nn.module import Module, Reach, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


@layer(
    "linear",
    Example({"in_features": 5, "out_features": 3}, (4, 5)),
    Example({"in_features": 6, "out_features": 2, "bias": False}, (2, 3, 6)),
    Example({"in_features": 4, "out_features": 4, "initialisation": "lecun"}, (2, 3, 5, 4)),
)
class Linear(Module):
    """y = x W^T + b on the last dimension: (..., in_features) -> (..., out_features).

    With the leading dimensions taken together as rows, and summing over them,
    dW = dy^T x, db = sum dy, dx = dy W.
    """

    fresh_output = True
    fresh_gradient = True

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        initialisation: Initialisation = "torch",
    ) -> None:
        super().__init__()
        if min(in_features, out_features) < 1:
            raise ValueError(
                f"in_features and out_features must be positive, got {in_features}, {out_features}"
            )
        self.in_features, self.out_features = in_features, out_features
        shape = out_features, in_features
        self.weight, self.bias = self.add_weights(initialisation, shape, out_features if bias else None)

    def forward(self, x: Tensor) -> Tensor:
        shape = self.output_shape(x.shape)
        rows = x.reshape(-1, self.in_features)
        if self.bias is None:
            y = rows @ self.weight.value.T
        else:
            y = torch.addmm(self.bias.value, rows, self.weight.value.T)
        self.save(rows)
        return channels_last(y.view(shape))

    def backward(self, dy: Tensor) -> Tensor:
        (rows,) = self.saved()
        d_rows = dy.reshape(-1, self.out_features)
        self.weight.grad.addmm_(d_rows.T, rows)
        if self.bias is not None:
            self.bias.grad.add_(d_rows.sum(0))
        if not self.needs_input_gradient:
            return dy.new_empty(0)
        return channels_last((d_rows @ self.weight.value).view(*dy.shape[:-1], self.in_features))

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) < 2 or shape[-1] != self.in_features:
            raise ShapeError(f"expects (..., {self.in_features}), got {tuple(shape)}")
        return (*shape[:-1], self.out_features)

    def macs(self, shape: Shape) -> int:
        return math.prod(self.output_shape(shape)) * self.in_features

    def reach(self, reach: Reach) -> Reach:
        return replace(reach, margin=math.inf)
