"""Other devices than the CPU: what a step makes on its way is made where its tensors are.

Tensors of the device "meta" have no values; to mix them with those of the CPU is an error, as it is on a GPU.
"""

import copy
from typing import Any

import pytest
import torch
from test_layers import every_example, spec_of

from denoise_cli.nn import LOSSES, OPTIMIZERS, Optimizer, build
from denoise_cli.nn.kernels import KERNELS
from denoise_cli.nn.losses import Loss
from denoise_cli.nn.precision import PRECISIONS, Precision, products_in
from denoise_cli.nn.registry import Example
from denoise_cli.nn.replay import Replayed
from denoise_cli.trainer import clip_gradients, copy_all, move_average

BLOCK = {
    "residual": {
        "body": [
            {"conv2d": {"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1}},
            "relu",
            {"conv2d": {"in_channels": 32, "out_channels": 32, "kernel_size": 3, "padding": 1}},
        ]
    }
}
NETWORK: list[Any] = [
    {"pixel_unshuffle": {"downscale_factor": 2}},
    {"conv2d": {"in_channels": 12, "out_channels": 32, "kernel_size": 3, "padding": 1}},
    BLOCK,
    {"conv2d": {"in_channels": 32, "out_channels": 48, "kernel_size": 4, "stride": 2, "padding": 1}},
    {"upsampling": {"in_channels": 48, "out_channels": 32}},
    {"conv2d": {"in_channels": 32, "out_channels": 12, "kernel_size": 3, "padding": 1}},
    {"pixel_shuffle": {"upscale_factor": 2}},
]


def step(device: str, loss: Loss, optimizer: type[Optimizer], precision: Precision) -> torch.Tensor:
    """A training step on a device, and what the network then makes of its input."""
    torch.manual_seed(0)
    net, average = (build(copy.deepcopy(NETWORK)).to(device=device) for _ in range(2))
    net.skip_input_gradient()
    moved = optimizer(net.param(), lr=1e-3)
    x, target = (torch.rand(2, 3, 32, 24).to(device) for _ in range(2))
    with products_in(precision):
        loss.forward(net.forward(x), target)
        net.backward(loss.backward())
    clip_gradients([grad for _, grad in net.param()], 1.0)
    moved.step()
    move_average(average, net, 0.5)
    copy_all(list(net.state().values()), list(average.state().values()))
    with products_in(precision):
        return average.train(False).forward(x)


@every_example
def test_a_layer_stays_on_its_device(name: str, example: Example) -> None:
    net = build([spec_of(name, example)]).to(device="meta")
    y = net.forward(torch.empty(example.shape, device="meta"))
    assert y.is_meta
    assert net.backward(torch.empty_like(y)).is_meta


steps = pytest.mark.parametrize(
    ("loss", "optimizer", "kernel"),
    [
        *((LOSSES["psnr"], OPTIMIZERS["muon"], kernel) for kernel in (None, *KERNELS)),
        *((loss, OPTIMIZERS["sgd"], None) for loss in LOSSES.values()),
        *((LOSSES["mse"], optimizer, None) for optimizer in OPTIMIZERS.values()),
    ],
)


@steps
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_step_stays_on_its_device(
    loss: type[Loss],
    optimizer: type[Optimizer],
    kernel: str | None,
    precision: Precision,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DENOISE_KERNEL", kernel or "")
    assert step("meta", loss(), optimizer, precision).is_meta


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@steps
@pytest.mark.parametrize(("precision", "bound"), [("float32", 1e-4), ("bf16", 3e-2)])
def test_cuda_does_what_the_cpu_does(
    loss: type[Loss],
    optimizer: type[Optimizer],
    kernel: str | None,
    precision: Precision,
    bound: float,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("DENOISE_KERNEL", kernel or "")
    # Muon makes directions that rounding alone has made as long as the others
    bound = max(bound, 1e-2) if optimizer is OPTIMIZERS["muon"] else bound
    here, there = (step(device, loss(), optimizer, precision).cpu() for device in ("cpu", "cuda"))
    torch.testing.assert_close(there, here, rtol=0, atol=bound * float(here.abs().max()))


def trained(precision: Precision, recording: bool) -> dict[str, torch.Tensor]:
    """A net on a GPU after a few steps, with random numbers and running statistics in it."""
    body: list[Any] = copy.deepcopy(NETWORK[:3])
    body += [{"batch_norm2d": {"num_features": 32}}, {"dropout": {"p": 0.2}}, *copy.deepcopy(NETWORK[3:])]
    torch.manual_seed(0)
    net, loss = build(body).to(device="cuda"), LOSSES["psnr"]()
    optimizer = OPTIMIZERS["adamw"](net.param(), lr=1e-3)

    @products_in(precision)
    def gradients(x: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        optimizer.zero_grad()
        value = loss.forward(net.forward(x), target)
        net.backward(loss.backward())
        return value

    replayed = Replayed(gradients)
    for number in range(6):
        x, target = (torch.rand(2, 3, 32, 24).cuda() for _ in range(2))
        torch.cuda.manual_seed(number)
        (replayed if recording else gradients)(x, target)
        optimizer.step()
    return {name: tensor.cpu() for name, tensor in net.state().items()}


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", PRECISIONS)
def test_cuda_repeats_what_was_recorded(precision: Precision) -> None:
    """Steps asked for operation by operation and recorded ones end alike."""
    called, recorded = trained(precision, recording=False), trained(precision, recording=True)
    for name, tensor in called.items():
        torch.testing.assert_close(recorded[name], tensor, rtol=1e-3, atol=1e-5, msg=name)
