"""How much of a network's answer a picture takes.

The network answers D(x, sigma) for noisy pixels x. With strength s the result is

    x + s (D(x, sigma) - x)      for s <= 1: 0 leaves the picture as it is, 1 is the network's answer;
    D(x, s sigma + 10 (s - 1))   for s > 1, by a network that is told sigma: as if there were more noise,
                                 also where hardly any was measured, as in what a camera has smoothed;
    D + (s - 1) (D(D) - D)       for s > 1, by one that is not: its answer is cleaned once more.

To go on along D(x) - x beyond 1 would not clean more, but print the noise as its own negative.

Brightness and colour may have strengths of their own. The change D - x is split into two parts that are
orthogonal and add up to it: its mean over R, G and B, and what is left.

Noise has no mean, so neither may what is taken away: the mean of the change over the square around each pixel
is given back. No place of a picture becomes brighter, darker or of another tint.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from denoise_cli.denoiser import Denoiser, pad_to_multiple

RADIUS = 32
"""Half the side of the squares that keep their mean: large, so that hardly any noise comes back with it."""

MORE = 10.0
"""What a strength of 2 adds to sigma beside doubling it."""


@dataclass(frozen=True)
class Blend:
    """Strengths from 0 to 2, whether to take the mean over the eight flips and turns of the picture, and
    whether every place is to keep its mean."""

    luma: float = 1.0
    chroma: float = 1.0
    ensemble: bool = False
    keep_mean: bool = True

    def margin(self, denoiser: Denoiser) -> float:
        """How many pixels around itself a pixel of the result may see."""
        passes = 2 if max(self.luma, self.chroma) > 1 and not denoiser.noise_level else 1
        return passes * denoiser.reach.margin + RADIUS * self.keep_mean

    def apply(self, denoiser: Denoiser, x: Tensor, sigma: float, scale: Tensor | None = None) -> Tensor:
        """The result for pictures x (1, C, H, W).

        `scale` (1, 1, H, W) in [0, 1] multiplies sigma, or the strength if the network is not told sigma;
        where it is 0, x stays as it is.
        """
        change = self._change(denoiser, x, self.luma, sigma, scale)
        if self.chroma != self.luma and x.shape[1] > 1:
            coloured = self._change(denoiser, x, self.chroma, sigma, scale)
            change = coloured + (change - coloured).mean(dim=1, keepdim=True)
        return x + change

    def _change(
        self, denoiser: Denoiser, x: Tensor, strength: float, sigma: float, scale: Tensor | None
    ) -> Tensor:
        """What denoising with one strength adds to x."""
        if strength == 0:
            return torch.zeros_like(x)
        beyond = max(strength, 1.0)
        if denoiser.noise_level:
            told = beyond * sigma + MORE * (beyond - 1)
            change = self._answer(denoiser, x, told * (1 if scale is None else scale)) - x
            keep = None if scale is None else scale > 0
        else:
            y = self._answer(denoiser, x)
            change, keep = y - x, scale
            if beyond > 1:
                change += (beyond - 1) * (self._answer(denoiser, y) - y)
        change *= min(strength, 1.0)
        if self.keep_mean:
            change -= local_mean(change, RADIUS)
        return change if keep is None else change * keep

    def _answer(self, denoiser: Denoiser, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
        return ensemble(denoiser, x, sigma) if self.ensemble else answer(denoiser, x, sigma)


def answer(denoiser: Denoiser, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
    """D(x, sigma), computed in the precision of the network's weights, as float32."""
    weights = denoiser.net.param()
    dtype = weights[0][0].dtype if weights else x.dtype
    return denoiser.predict(x.to(dtype), sigma).float()


def ensemble(denoiser: Denoiser, x: Tensor, sigma: float | Tensor | None = None) -> Tensor:
    """The mean of the answers to the eight flips and turns of x, each turned back.

    x is first continued to the network's period. The network would otherwise do it after the flip, on a side
    where a tile and the whole picture are not continued alike.
    """
    H, W = x.shape[2:]
    x = pad_to_multiple(x, denoiser.reach.period)
    if isinstance(sigma, Tensor):
        sigma = pad_to_multiple(sigma, denoiser.reach.period)
    total = torch.zeros_like(x)
    for turns in range(4):
        for mirror in (False, True):
            level = _turn(sigma, turns, mirror) if isinstance(sigma, Tensor) else sigma
            y = answer(denoiser, _turn(x, turns, mirror), level)
            total += torch.rot90(y.flip(3) if mirror else y, -turns, (2, 3))
    return total[..., :H, :W] / 8


def local_mean(x: Tensor, radius: int) -> Tensor:
    """The mean over the square around each pixel of x (N, C, H, W), `radius` to each side within x."""
    for dim in (2, 3):
        size = x.shape[dim]
        places = torch.arange(size, device=x.device)
        first, last = (places - radius).clamp(min=0), (places + radius + 1).clamp(max=size)
        counts = (last - first).reshape((-1, 1) if dim == 2 else (-1,))
        # sums of all up to a place: those of a stretch are a difference of two
        sums = x.new_zeros([n + (d == dim) for d, n in enumerate(x.shape)])
        torch.cumsum(x, dim, out=sums.narrow(dim, 1, size))
        x = sums.index_select(dim, last).sub_(sums.index_select(dim, first)).div_(counts)
    return x


def _turn(x: Tensor, turns: int, mirror: bool) -> Tensor:
    """x after quarter turns, then mirrored."""
    x = torch.rot90(x, turns, (2, 3))
    return x.flip(3) if mirror else x
