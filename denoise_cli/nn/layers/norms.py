"""Normalisations: x brought to mean 0 and variance 1, then scaled and shifted by learned numbers.

    x_hat = (x - mean) / sqrt(var + eps)        y = weight * x_hat + bias

They differ in what a mean is taken over: `batch_norm2d` over all pixels of a channel, `layer_norm2d` over all
channels of a pixel. The backward is the same. With g = weight * dy, and E the mean over that set,

    dx = (g - E[g] - x_hat * E[g * x_hat]) / sqrt(var + eps)

as the mean and the variance take back the part of g along 1 and along x_hat; dweight = sum dy * x_hat,
dbias = sum dy. The tensors are seen as rows of channels, (pixels, C), which is how they lie in memory.
"""

import math

import torch
from torch import Tensor

from denoise_cli.nn import blocks
from denoise_cli.nn.layout import empty_like, from_rows, to_rows
from denoise_cli.nn.module import Module, Shape, ShapeError
from denoise_cli.nn.registry import Example, layer


class Norm(Module):
    """The learned scale and shift, and rows of channels."""

    fresh_output = True
    fresh_gradient = True

    def __init__(self, channels: int, eps: float) -> None:
        super().__init__()
        if channels < 1:
            raise ValueError(f"the number of channels must be positive, got {channels}")
        self.channels = channels
        self.eps = eps
        self.weight = self.add_parameter("weight", torch.ones(channels))
        self.bias = self.add_parameter("bias", torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        return self._forward(x, owned=False)

    def forward_(self, x: Tensor) -> Tensor:
        return self._forward(x, owned=True)

    def _forward(self, x: Tensor, *, owned: bool) -> Tensor:
        self.output_shape(x.shape)
        rows = to_rows(x)
        return from_rows(self.normalise(rows, rows if owned else empty_like(rows)), x.shape)

    def normalise(self, rows: Tensor, out: Tensor) -> Tensor:
        """y for rows of channels. May overwrite `out`, which may be `rows`, and keep it for backward."""
        raise NotImplementedError(type(self).__name__)

    def output_shape(self, shape: Shape) -> Shape:
        if len(shape) != 4 or shape[1] != self.channels:
            raise ShapeError(f"expects (N, {self.channels}, H, W), got {tuple(shape)}")
        return shape

    def macs(self, shape: Shape) -> int:
        return math.prod(shape)


@layer(
    "batch_norm2d",
    Example({"num_features": 4}),
    Example({"num_features": 3, "eps": 1e-3, "momentum": 0.3}, (3, 3, 4, 5)),
)
class BatchNorm2d(Norm):
    """Normalises each channel over the batch and its pixels (Ioffe and Szegedy, arXiv:1502.03167).

    Training uses the batch's own mean and (biased) variance, and moves running ones towards them:
    running += momentum * (batch - running), the variance unbiased. Outside training the running ones are
    used, so that a picture's result does not depend on its neighbours.
    """

    def __init__(self, num_features: int, eps: float = 1e-5, momentum: float = 0.1) -> None:
        super().__init__(num_features, eps)
        self.momentum = momentum
        self.buffers["running_mean"] = torch.zeros(num_features)
        self.buffers["running_var"] = torch.ones(num_features)
        self.buffers["num_batches_tracked"] = torch.tensor(0)  # unused, but in every torch.nn state dict

    def normalise(self, rows: Tensor, out: Tensor) -> Tensor:
        weight, bias = self.weight.value, self.bias.value
        running_mean, running_var = self.buffers["running_mean"], self.buffers["running_var"]
        if not self.training:
            scale = (running_var + self.eps).rsqrt_().mul_(weight)
            return torch.addcmul(bias - running_mean * scale, rows, scale, out=out)
        count = len(rows)
        if count == 1:
            raise ShapeError("the variance of a batch needs more than one pixel a channel, got one")
        mean, squares = rows.mean(0), torch.zeros_like(weight)
        for block, centred in blocks.rows(rows, out):
            torch.sub(block, mean, out=centred)
            squares += (centred * centred).sum(0)
        running_mean.lerp_(mean, self.momentum)
        running_var.lerp_(squares / (count - 1), self.momentum)
        self.buffers["num_batches_tracked"].add_(1)
        inverse_std = (squares / count).add_(self.eps).rsqrt_()
        self.save(out, inverse_std)
        return torch.addcmul(bias, out, weight * inverse_std, out=empty_like(out))

    def backward(self, dy: Tensor) -> Tensor:
        rows, inverse_std = self.saved()  # x - mean, that is x_hat / inverse_std
        d_rows = to_rows(dy)
        d_weight, d_bias = torch.zeros_like(inverse_std), torch.zeros_like(inverse_std)
        for centred, d_block in blocks.rows(rows, d_rows):
            d_weight += (d_block * centred).sum(0)
            d_bias += d_block.sum(0)
        d_weight *= inverse_std
        self.weight.grad.add_(d_weight)
        self.bias.grad.add_(d_bias)
        # E[g] = weight * d_bias / count, E[g * x_hat] = weight * d_weight / count; dx takes the saved memory.
        scale = self.weight.value * inverse_std
        shift = scale * d_bias / len(rows)
        slope = scale * inverse_std * d_weight / -len(rows)
        for centred, d_block in blocks.rows(rows, d_rows):
            centred.mul_(slope).addcmul_(d_block, scale).sub_(shift)
        return from_rows(rows, dy.shape)


@layer(
    "layer_norm2d",
    Example({"num_channels": 4}),
    Example({"num_channels": 3, "eps": 1e-3}, (2, 3, 1, 5)),
)
class LayerNorm2d(Norm):
    """Normalises each pixel over its channels (Ba et al., arXiv:1607.06450)."""

    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps)

    def normalise(self, rows: Tensor, out: Tensor) -> Tensor:
        y = empty_like(out) if self.training else out
        inverse_std = rows.new_empty(len(rows), 1)
        for block, x_hat, inverse, y_block in blocks.rows(rows, out, inverse_std, y):
            torch.sub(block, block.mean(1, keepdim=True), out=x_hat)
            torch.mean(x_hat * x_hat, 1, keepdim=True, out=inverse).add_(self.eps).rsqrt_()
            torch.addcmul(self.bias.value, x_hat.mul_(inverse), self.weight.value, out=y_block)
        self.save(out, inverse_std)
        return y

    def backward(self, dy: Tensor) -> Tensor:
        rows, inverse_std = self.saved()
        d_rows = to_rows(dy)
        for x_hat, inverse, d_block in blocks.rows(rows, inverse_std, d_rows):
            along = d_block * x_hat
            self.weight.grad.add_(along.sum(0))
            self.bias.grad.add_(d_block.sum(0))
            mean_along = (along @ self.weight.value).div_(-self.channels).unsqueeze(1)
            g = torch.mul(d_block, self.weight.value, out=along)
            g.sub_(g.mean(1, keepdim=True))
            x_hat.mul_(mean_along).add_(g).mul_(inverse)  # dx takes the saved memory
        return from_rows(rows, dy.shape)
