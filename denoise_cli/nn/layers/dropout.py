"""Dropout."""

import torch
from torch import Tensor

from denoise_cli.nn.layout import channels_last
from denoise_cli.nn.module import Module
from denoise_cli.nn.registry import Example, layer


@layer("dropout", Example(), Example({"p": 0.2}))
class Dropout(Module):
    """y = x * m / (1 - p), every m being 0 with probability p and else 1; outside training y is x itself.

    The mask comes from torch's own generator, which `torch.manual_seed` governs (Srivastava et al., 2014).
    """

    fresh_gradient = True

    def __init__(self, p: float = 0.5) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"p must be in [0, 1), got {p}")
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        # Drawn rows first, whatever the layout of x, so that a seed means one mask.
        mask = channels_last(torch.empty(x.shape, dtype=torch.bool, device=x.device).bernoulli_(1 - self.p))
        self.save(mask)
        return self._masked(x, mask)

    def backward(self, dy: Tensor) -> Tensor:
        (mask,) = self.saved()
        return self._masked(dy, mask)

    def _masked(self, x: Tensor, mask: Tensor) -> Tensor:
        # A product with booleans is several times slower than one with floats.
        return mask.to(x.dtype).mul_(x).mul_(1 / (1 - self.p))
