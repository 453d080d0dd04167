"""Denoising without a model: a small network learns from the one noisy picture.

Zero-Shot Noise2Noise (Mansour and Heckel, "Zero-Shot Noise2Noise: Efficient Image Denoising without any
Data", CVPR 2023). Two half-size views of a picture y, the means of the two diagonals of every 2 x 2 square,

    D1 y = (y[0, 1] + y[1, 0]) / 2,    D2 y = (y[0, 0] + y[1, 1]) / 2,

show nearly the same scene with independent noise. A network f that predicts one view from the other cannot
predict its noise, so it learns the scene (Noise2Noise, Lehtinen et al. 2018):

    L = (|f(D1 y) - D2 y|^2 + |f(D2 y) - D1 y|^2) / n,    n values in both views.

Unlike in the paper, L has no second term |f(D_i y) - D_i f(y)|^2. It needs f at full size, which makes a step
three times as long, and in the same time the shorter steps reach about 0.7 dB more. Learning from small
squares that are turned and mirrored keeps the network from remembering the noise instead.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from denoise_cli.denoiser import Denoiser
from denoise_cli.errors import DenoiseError
from denoise_cli.nn import MSE, Adam, Module, build
from denoise_cli.nn.schedules import Cosine
from denoise_cli.windows import Source

STEPS = 1800
CROP = 96
"""Side of the squares of the picture that are learned from."""
LEARNING_RATE = 3e-3
_WIDTH = 52


def learn(
    source: Source,
    *,
    seed: int = 0,
    steps: int = STEPS,
    device: torch.device | str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> Denoiser:
    """A denoiser for this picture.

    The time it takes does not depend on the picture's size: every step learns from one square of it, turned
    and mirrored at random. The same seed gives the same denoiser. `progress` is called with steps done and
    steps in all.

    Raises DenoiseError for a picture under 4 pixels high or wide, which has no views to speak of.
    """
    if min(source.height, source.width) < 4:
        raise DenoiseError(f"{source.width} x {source.height} pixels are too few to learn from")
    rng = np.random.default_rng(seed)
    net = _network(source.channels, seed).to(device=device)
    loss, optimizer, schedule = MSE(), Adam(net.param(), lr=LEARNING_RATE), Cosine()
    for step in range(steps):
        optimizer.lr = LEARNING_RATE * schedule(step, steps)
        d1, d2 = views(_square(source, rng).to(device))
        loss.forward(net.forward(torch.cat((d1, d2))), torch.cat((d2, d1)))
        optimizer.zero_grad()
        net.backward(loss.backward())
        optimizer.step()
        if progress:
            progress(step + 1, steps)
    return Denoiser(net.train(False), channels=source.channels, noise_level=False)


def views(y: Tensor) -> tuple[Tensor, Tensor]:
    """D1 y and D2 y, (N, C, H / 2, W / 2), of pictures (N, C, H, W) with even sides."""
    return (y[..., ::2, 1::2] + y[..., 1::2, ::2]) / 2, (y[..., ::2, ::2] + y[..., 1::2, 1::2]) / 2


def _network(channels: int, seed: int) -> Module:
    """About 22,000 weights that predict what is to be added to a picture."""

    def conv(i: int, o: int, size: int) -> dict[str, object]:
        return {"conv2d": {"in_channels": i, "out_channels": o, "kernel_size": size, "padding": size // 2}}

    bend = {"leaky_relu": {"negative_slope": 0.2}}
    body = [conv(channels, _WIDTH, 3), bend, conv(_WIDTH, _WIDTH, 3), bend, conv(_WIDTH, channels, 1)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build([{"residual": {"body": body}}])


def _square(source: Source, rng: np.random.Generator) -> Tensor:
    """A random square of the picture, or as much as there is, in one of its eight positions: (1, C, h, w)."""
    h, w = (min(CROP, size) // 2 * 2 for size in (source.height, source.width))
    y, x = int(rng.integers(source.height - h + 1)), int(rng.integers(source.width - w + 1))
    square = torch.from_numpy(source.window(y, y + h, x, x + w)).permute(2, 0, 1)[None]
    square = torch.rot90(square, int(rng.integers(4)), (2, 3))
    return square.flip(3) if rng.integers(2) else square
