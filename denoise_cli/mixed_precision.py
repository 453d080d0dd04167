"""Training in bfloat16: fast products, and float32 weights that do not lose small updates."""

import torch
from torch import Tensor

from denoise_cli.nn.module import Module


class InBfloat16:
    """Computes a float32 network in bfloat16.

    bfloat16 has 8 bits of precision, so weight + update = weight for every update under 1/512 of its weight.
    The weights therefore live in float32, where the optimizer moves them; `copy`, a second network of the
    same layers, is a rounded image of them that computes (Micikevicius et al., "Mixed Precision Training",
    ICLR 2018; bfloat16 has float32's range, so the loss needs no scaling).
    """

    def __init__(self, net: Module, copy: Module) -> None:
        self.net = net
        device = next(value.device for value, _ in net.param())
        self.copy = copy.to(torch.bfloat16, device)

    def skip_input_gradient(self) -> None:
        self.copy.skip_input_gradient()

    def forward(self, x: Tensor) -> Tensor:
        """y as float32. The running statistics of the network follow."""
        self.copy.load_state(self.net.state())
        y = self.copy.forward(x.to(torch.bfloat16)).to(x.dtype)
        copy_buffers(self.copy, self.net)
        return y

    def backward(self, dy: Tensor) -> None:
        """Adds to the parameter gradients of the float32 network."""
        for _, grad in self.copy.param():
            grad.zero_()
        self.copy.backward(dy.to(torch.bfloat16))
        for (_, grad), (_, rounded) in zip(self.net.param(), self.copy.param(), strict=True):
            grad.add_(rounded)


def copy_buffers(source: Module, target: Module) -> None:
    """Copies what is neither learned nor fixed - running statistics - between networks of the same layers."""
    for copied, module in zip(source.modules(), target.modules(), strict=True):
        for name, buffer in module.buffers.items():
            buffer.copy_(copied.buffers[name])
