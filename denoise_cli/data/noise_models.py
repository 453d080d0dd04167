"""What a noise model is, and the ones with a closed form.

Pictures are float in [0, 1]; sigma, as everywhere, is quoted on the 0-255 scale. Nothing is clipped unless
the model says so: clipping shifts the mean of dark and bright places, which a network would then learn.
"""

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Pixels = NDArray[np.float32]
"""(H, W, C), in [0, 1] where clean."""

Range = float | tuple[float, float]
"""One value, or [low, high]: drawn anew for every picture."""


class Noisy(NamedTuple):
    """A picture with noise, and how strong it is.

    `image`: (C, H, W). `sigma`: on the 0-255 scale, the parameter of Gaussian noise; for the others the root
    mean square of the error that was made.
    """

    image: Tensor
    sigma: float


class Noise:
    """Adds noise to one picture at a time: `noise(clean, generator) -> Noisy`.

    All randomness comes from the generator, so the same generator state gives the same noise anywhere.
    Subclasses write `corrupt`.
    """

    scale: int = 1
    """A result of n x n pixels needs a picture of (scale n) x (scale n)."""

    def __call__(self, picture: Tensor, generator: np.random.Generator) -> Noisy:
        """The noisy version of `picture`, (C, H, W), which is left as it is."""
        image, sigma = self.corrupt(picture.numpy().transpose(1, 2, 0), generator)
        return Noisy(torch.from_numpy(image).permute(2, 0, 1), sigma)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> tuple[Pixels, float]:
        """The noisy pixels, as new memory, and their sigma."""
        raise NotImplementedError(type(self).__name__)

    def clean(self, picture: Tensor) -> Tensor:
        """What the noisy version of `picture` would be without its noise."""
        return picture


class Gaussian(Noise):
    """Additive white Gaussian noise: y = x + sigma / 255 * n, n ~ N(0, 1) for every value. Not clipped."""

    def __init__(self, *, sigma: Range = 25.0) -> None:
        self.sigma = checked_range("sigma", sigma, low=0.0)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> tuple[Pixels, float]:
        sigma = draw(self.sigma, generator)
        noise = generator.standard_normal(x.shape, dtype=np.float32)
        noise *= np.float32(sigma / 255)
        noise += x
        return noise, sigma


# What the models share -----------------------------------------------------------------------------------


def checked_range(name: str, value: Range, *, low: float, high: float = np.inf) -> tuple[float, float]:
    """(least, most) of a range; raises ValueError unless low <= least <= most <= high."""
    least, most = value if isinstance(value, tuple | list) else (value, value)
    if not low <= least <= most <= high:
        bounds = f"at least {low:g}" if high == np.inf else f"between {low:g} and {high:g}"
        raise ValueError(f"{name} must be {bounds}, or [low, high] in that order; it is {value}")
    return float(least), float(most)


def draw(bounds: tuple[float, float], generator: np.random.Generator) -> float:
    """A value uniform in the range; one number takes no random draw."""
    low, high = bounds
    return low if low == high else float(generator.uniform(low, high))


def level(error: Pixels) -> float:
    """sigma on the 0-255 scale: the root mean square of an error."""
    return 255.0 * float(np.sqrt(np.mean(np.square(error), dtype=np.float64)))
