"""Training in bfloat16 with weights in float32 (Micikevicius et al., "Mixed Precision Training", ICLR 2018).

Activations of half the size take half the memory, and a pass over them half the time. On a GPU most of a step
is such passes.
"""

import copy
from collections.abc import Iterator

import torch
from torch import Tensor

from denoise_cli.nn.kernels import products
from denoise_cli.nn.module import Module
from denoise_cli.nn.precision import Precision


class MixedPrecision(Module):
    """A network that computes in bfloat16, with another network's parameters: the ones that are learned.

    `forward` rounds them, and all that it computes; sums in products and reductions are float32. `backward`
    adds to the gradients of the network given. bfloat16 has the exponents of float32, so that small gradients
    need no scaling. Running statistics would not bear the rounding: a network must have none.
    """

    def __init__(self, net: Module) -> None:
        super().__init__()
        self.net = net
        self.rounded = copy.deepcopy(net).to(dtype=torch.bfloat16)

    def children(self) -> Iterator[tuple[str, Module]]:
        yield "net", self.net
        yield "rounded", self.rounded

    def forward(self, x: Tensor) -> Tensor:
        for (rounded, _), (value, _) in zip(self.rounded.param(), self.net.param(), strict=True):
            rounded.copy_(value)
        return self.rounded.forward(x.to(torch.bfloat16)).to(x.dtype)

    def backward(self, dy: Tensor) -> Tensor:
        for _, grad in self.rounded.param():
            grad.zero_()
        dx = self.rounded.backward(dy.to(torch.bfloat16)).to(dy.dtype)
        for (_, rounded), (_, grad) in zip(self.rounded.param(), self.net.param(), strict=True):
            grad.add_(rounded)
        return dx


def computing_in(precision: Precision, net: Module) -> Module:
    """What trains `net`: for bf16 `MixedPrecision`, where the device has products of bfloat16 and the network
    no running statistics; else the network itself."""
    devices = {value.device for value, _ in net.param()}
    able = all(products.multiplies_bfloat16(device) for device in devices)
    mixed = precision == "bf16" and able and not any(module.buffers for module in net.modules())
    return MixedPrecision(net) if mixed else net
