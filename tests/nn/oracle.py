"""The oracle of the layers' tests: the same nets in torch.nn, and how ours are compared with them."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from denoise_cli.nn import Module, build
from denoise_cli.nn.losses import Loss
from denoise_cli.nn.optim import Optimizer


class TorchResidual(nn.Module):
    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x)


class TorchConcat(TorchResidual):
    def forward(self, x: Tensor) -> Tensor:
        return torch.cat((x, self.body(x)), dim=1)


class TorchPerPixel(TorchResidual):
    def forward(self, x: Tensor) -> Tensor:
        N, C, H, W = x.shape
        return self.body(x.movedim(1, -1).reshape(-1, C)).reshape(N, H, W, -1).movedim(-1, 1)


class TorchPatches(TorchResidual):
    def __init__(self, size: int, body: nn.Module, stride: int = 1) -> None:
        super().__init__(body)
        self.size, self.stride = size, stride

    def forward(self, x: Tensor) -> Tensor:
        unfolded = nn.functional.unfold(x, self.size, stride=self.stride)  # (N, C size^2, patches)
        N, features, patches = unfolded.shape
        rows = self.body(unfolded.transpose(1, 2).reshape(-1, features)).view(N, patches, -1).transpose(1, 2)

        def fold(columns: Tensor) -> Tensor:
            return nn.functional.fold(columns, x.shape[2:], self.size, stride=self.stride)

        return fold(rows) / fold(torch.ones_like(rows))


class TorchLayerNorm2d(nn.LayerNorm):
    def __init__(self, num_channels: int, eps: float = 1e-6) -> None:
        super().__init__(num_channels, eps)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x.movedim(1, -1)).movedim(-1, 1)


class TorchUpsampling(nn.Conv2d):
    def __init__(self, *, kernel_size: int = 3, padding: int = 1, scale_factor: int = 2, **rest: Any) -> None:
        super().__init__(kernel_size=kernel_size, padding=padding, **rest)
        self.scale_factor = scale_factor

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(nn.functional.interpolate(x, scale_factor=self.scale_factor))


class SeededDropout(nn.Dropout):
    """Dropout whose mask is drawn as a bool tensor: torch.nn's own draws floats, which come out otherwise."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        return x * torch.empty(x.shape, dtype=torch.bool).bernoulli_(1 - self.p) / (1 - self.p)


TWINS: dict[str, Callable[..., nn.Module]] = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "selu": nn.SELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "linear": nn.Linear,
    "conv2d": nn.Conv2d,
    "transpose_conv2d": nn.ConvTranspose2d,
    "upsampling": TorchUpsampling,
    "pixel_shuffle": nn.PixelShuffle,
    "pixel_unshuffle": nn.PixelUnshuffle,
    "max_pool2d": nn.MaxPool2d,
    "avg_pool2d": nn.AvgPool2d,
    "batch_norm2d": nn.BatchNorm2d,
    "layer_norm2d": TorchLayerNorm2d,
    "flatten": nn.Flatten,
    "dropout": SeededDropout,
    "residual": TorchResidual,
    "concat": TorchConcat,
    "per_pixel": TorchPerPixel,
    "patches": TorchPatches,
}


def twin(spec: Any) -> nn.Module:
    """What `build` does, with torch.nn's modules."""
    if isinstance(spec, list):
        return nn.Sequential(*map(twin, spec))
    name, arguments = (spec, {}) if isinstance(spec, str) else next(iter(spec.items()))
    arguments = {key: value for key, value in arguments.items() if key != "initialisation"}
    if name == "repeat":
        return nn.Sequential(*(twin(arguments["body"]) for _ in range(arguments["times"])))
    if "body" in arguments:
        arguments["body"] = twin(arguments["body"])
    return TWINS[name](**arguments)


def make(spec: Any, dtype: torch.dtype = torch.float64, seed: int = 0) -> Module:
    """The net of a spec with random parameters: no weight of 1, no bias of 0 to hide behind."""
    torch.manual_seed(seed)
    net = build(copy.deepcopy(spec)).to(dtype=dtype)
    for value, _ in net.param():
        value.normal_(0, 0.5)
    return net


def picture(shape: tuple[int, ...], seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    """Distinct values in (-2, 2), evenly spaced and none of them 0: away from kinks, and no two maxima."""
    n = math.prod(shape)
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed))
    return channels_last(((order + 0.25) / n * 4 - 2).reshape(shape).to(dtype))


def step_both(
    ours: tuple[Module, Loss, Optimizer],
    theirs: tuple[nn.Module, Callable[[Tensor, Tensor], Tensor], torch.optim.Optimizer],
    x: Tensor,
    target: Tensor,
) -> tuple[Tensor, Tensor]:
    """One training step of a net, and of its twin; both losses before it."""
    net, loss, optimizer = ours
    value = loss.forward(net.forward(x), target)
    optimizer.zero_grad()
    net.backward(loss.backward())
    optimizer.step()

    oracle, their_loss, their_optimizer = theirs
    their_value = their_loss(oracle(x), target)
    their_optimizer.zero_grad()
    their_value.backward()
    their_optimizer.step()
    return value, their_value.detach()


def channels_last(x: Tensor) -> Tensor:
    return x.contiguous(memory_format=torch.channels_last) if x.dim() == 4 else x


def run(net: Module | nn.Module, x: Tensor) -> Tensor:
    """A forward whose random numbers are always the same."""
    torch.manual_seed(1)
    return net.forward(x)


def gradients(net: Module, x: Tensor, dy: Tensor) -> tuple[Tensor, list[Tensor]]:
    """dx and the parameter gradients of one forward and backward, from zero."""
    for _, grad in net.param():
        grad.zero_()
    run(net, x)
    return net.backward(dy), [grad.clone() for _, grad in net.param()]


def relative_error(ours: Tensor, theirs: Tensor, floor: float = 1e-12) -> float:
    """The largest difference, by the largest value or by `floor`, where all values are rounding errors."""
    assert ours.shape == theirs.shape
    if ours.numel() == 0:
        return 0.0
    return (ours - theirs).abs().max().item() / max(theirs.abs().max().item(), floor)


def assert_parity(spec: Any, shape: tuple[int, ...], dtype: torch.dtype = torch.float64) -> None:
    """Output, both gradients and buffers are torch's, in training and outside of it."""
    bound = 1e-10 if dtype == torch.float64 else 1e-5
    net, oracle = make(spec, dtype), twin(spec).to(dtype)
    oracle.load_state_dict(net.state())
    x, x_oracle = picture(shape, dtype=dtype), picture(shape, dtype=dtype).requires_grad_()

    y, y_oracle = run(net, x), run(oracle, x_oracle)
    assert relative_error(y, y_oracle.detach()) < bound

    dy = channels_last(torch.randn(y.shape, dtype=dtype))
    y_oracle.backward(dy)
    assert relative_error(net.backward(dy), x_oracle.grad) < bound
    theirs = [parameter.grad for parameter in oracle.parameters()]
    floor = 1e-3 * max((grad.abs().max().item() for grad in theirs), default=0.0)
    for (_, grad), their_grad in zip(net.param(), theirs, strict=True):
        assert relative_error(grad, their_grad, floor) < bound
    for name, tensor in oracle.state_dict().items():
        assert relative_error(net.state()[name].double(), tensor.double()) < bound

    net.train(False)
    oracle.eval()
    assert relative_error(run(net, x), run(oracle, x)) < bound
