"""Learning: the same net here and in torch.nn stays together for hundreds of steps, and a batch is learnt."""

import copy
from typing import Any

import pytest
import torch
from oracle import channels_last, step_both, twin
from torch import nn

from denoise_cli.nn import LOSSES, MSE, OPTIMIZERS, Adam, build
from denoise_cli.nn.kernels import KERNELS


def conv(inputs: int, outputs: int, **rest: Any) -> dict[str, Any]:
    arguments = {"in_channels": inputs, "out_channels": outputs, "kernel_size": 3, "padding": 1}
    return {"conv2d": arguments | rest}


def block(channels: int) -> dict[str, Any]:
    return {"residual": {"body": [conv(channels, channels), "relu", conv(channels, channels)]}}


def linear(inputs: int, outputs: int) -> dict[str, Any]:
    return {"linear": {"in_features": inputs, "out_features": outputs}}


down = {"conv2d": {"in_channels": 8, "out_channels": 12, "kernel_size": 2, "stride": 2}}
up = {"transpose_conv2d": {"in_channels": 12, "out_channels": 8, "kernel_size": 2, "stride": 2}}
NETS: dict[str, list[Any]] = {
    "mlp": [
        {"pixel_unshuffle": {"downscale_factor": 4}},
        {"per_pixel": {"body": [linear(48, 32), "elu", linear(32, 48), "sigmoid"]}},
        {"pixel_shuffle": {"upscale_factor": 4}},
    ],
    "report": [
        conv(3, 8, stride=2),
        "selu",
        conv(8, 12, stride=2),
        "elu",
        {"transpose_conv2d": {"in_channels": 12, "out_channels": 8, "kernel_size": 2, "stride": 2}},
        "relu",
        {"upsampling": {"in_channels": 8, "out_channels": 3}},
        "sigmoid",
    ],
    "normalised": [
        conv(3, 8),
        {"batch_norm2d": {"num_features": 8}},
        "leaky_relu",
        {"concat": {"body": [{"layer_norm2d": {"num_channels": 8}}, conv(8, 4), "silu"]}},
        {"avg_pool2d": {"kernel_size": 3, "stride": 1, "padding": 1}},
        conv(12, 3),
    ],
    "u-net": [
        {"pixel_unshuffle": {"downscale_factor": 2}},
        conv(12, 8),
        {"residual": {"body": [down, {"repeat": {"times": 2, "body": [block(12)]}}, up]}},
        conv(8, 12),
        {"pixel_shuffle": {"upscale_factor": 2}},
    ],
}
# Signs and large steps make much of a last digit, so where they rule the twins are followed in float64.
LEARNING = [
    ("mlp", "charbonnier", "adam", {"lr": 1e-3}, torch.float64, 1e-9),
    ("report", "mse", "sgd", {"lr": 4.0}, torch.float64, 1e-9),
    ("normalised", "l1", "adamw", {"lr": 2e-3}, torch.float64, 1e-9),
    ("u-net", "mse", "sgd", {"lr": 0.1, "momentum": 0.9}, torch.float32, 1e-4),
    ("report", "psnr", "adam", {"lr": 1e-3}, torch.float64, 1e-8),
]
TORCH_LOSSES = {
    "mse": nn.MSELoss(),
    "l1": nn.L1Loss(),
    "charbonnier": lambda y, target: ((y - target) ** 2 + 1e-6).sqrt().mean(),
    "psnr": lambda y, target: 10 * (((y - target) ** 2).mean((1, 2, 3)) + 1e-5).log10().mean(),
}
TORCH_OPTIMIZERS = {"sgd": torch.optim.SGD, "adam": torch.optim.Adam, "adamw": torch.optim.AdamW}


def batches(count: int, size: int = 12) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """Blurred noise to find again under more noise."""
    generator = torch.Generator().manual_seed(0)
    clean = torch.rand(count, 3, 3, size // 4, size // 4, generator=generator)
    clean = clean.repeat_interleave(4, dim=-1).repeat_interleave(4, dim=-2)
    noisy = clean + 0.1 * torch.randn(clean.shape, generator=generator)
    return [(channels_last(x), channels_last(target)) for x, target in zip(noisy, clean, strict=True)]


@pytest.mark.parametrize(("name", "loss", "optimizer", "settings", "dtype", "bound"), LEARNING)
def test_twins_stay_together(
    name: str, loss: str, optimizer: str, settings: dict[str, float], dtype: torch.dtype, bound: float
) -> None:
    """200 steps from the same start on the same batches: every loss is torch's."""
    torch.manual_seed(0)
    net, oracle = build(copy.deepcopy(NETS[name])).to(dtype=dtype), twin(NETS[name]).to(dtype)
    oracle.load_state_dict({key: tensor.clone() for key, tensor in net.state().items()})
    net.skip_input_gradient()
    ours = net, LOSSES[loss](), OPTIMIZERS[optimizer](net.param(), **settings)
    theirs = oracle, TORCH_LOSSES[loss], TORCH_OPTIMIZERS[optimizer](oracle.parameters(), **settings)

    losses = []
    for x, target in batches(200):
        value, their_value = step_both(ours, theirs, x.to(dtype), target.to(dtype))
        assert value.item() == pytest.approx(their_value.item(), abs=bound)
        losses.append(value.item())
    first, last = sum(losses[:20]), sum(losses[-20:])
    assert last < first - 0.3 * abs(first)


@pytest.mark.parametrize("kernel", KERNELS)
def test_twins_stay_together_with_every_kernel(kernel: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DENOISE_KERNEL", kernel)
    test_twins_stay_together("u-net", "mse", "sgd", {"lr": 0.1, "momentum": 0.9}, torch.float32, 1e-4)


@pytest.mark.parametrize("name", ["mlp", "report"])
def test_one_batch_can_be_learnt(name: str) -> None:
    torch.manual_seed(0)
    net, loss = build(copy.deepcopy(NETS[name])), MSE()
    optimizer = Adam(net.param(), lr=1e-2)
    x, target = batches(1)[0]
    values = []
    for _ in range(150):
        values.append(loss.forward(net.forward(x), target).item())
        optimizer.zero_grad()
        net.backward(loss.backward())
        optimizer.step()
    assert values[-1] < 0.2 * values[0]
