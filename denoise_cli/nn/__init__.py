"""The framework: modules, losses and optimizers on plain tensors. It imports torch, and nothing else of ours.

from denoise_cli.nn import build, MSE, SGD

net = build([{"conv2d": {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "padding": 1}}])
loss, optimizer = MSE(), SGD(net.param(), lr=0.1)
for x, target in batches:
    loss.forward(net.forward(x), target)
    optimizer.zero_grad()
    net.backward(loss.backward())
    optimizer.step()
"""

from denoise_cli.nn.build import SpecError, build
from denoise_cli.nn.layers.containers import Sequential
from denoise_cli.nn.losses import L1, LOSSES, MSE, Charbonnier, Loss, NegativePSNR
from denoise_cli.nn.module import Module, Reach, ShapeError
from denoise_cli.nn.optim import OPTIMIZERS, SGD, Adam, AdamW, Muon, Optimizer
from denoise_cli.nn.schedules import SCHEDULES, Schedule

__all__ = [
    "L1",
    "LOSSES",
    "MSE",
    "OPTIMIZERS",
    "SCHEDULES",
    "SGD",
    "Adam",
    "AdamW",
    "Charbonnier",
    "Loss",
    "Module",
    "Muon",
    "NegativePSNR",
    "Optimizer",
    "Reach",
    "Schedule",
    "Sequential",
    "ShapeError",
    "SpecError",
    "build",
]
