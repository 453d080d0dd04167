"""What a noise model is, and the ones with a closed form.

Pictures are float in [0, 1]; sigma, as everywhere, is quoted on the 0-255 scale. Nothing is clipped unless
the model says so: clipping shifts the mean of dark and bright places, which a network would then learn.
"""

import io
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, JpegImagePlugin
from torch import Tensor

from denoise_cli.images import to_pixels, to_tensor

Pixels = NDArray[np.floating[Any]]
"""(H, W, C) float32, in [0, 1] where clean."""

Range = float | tuple[float, float]
"""One value, or [low, high]: drawn anew for every picture, uniformly unless the model says otherwise."""


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
    Subclasses write `corrupt`; their arguments may be ranges.
    """

    scale: int = 1
    """A result of n x n pixels needs a picture of (scale n) x (scale n)."""

    def __call__(self, picture: Tensor, generator: np.random.Generator) -> Noisy:
        """The noisy version of `picture`, (C, H, W) float32, which is left as it is."""
        x = to_pixels(picture)
        y = self.corrupt(x, generator)
        return Noisy(to_tensor(y), self.strength(x, y))

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        """The noisy pixels, as new memory."""
        raise NotImplementedError(type(self).__name__)

    def strength(self, x: Pixels, y: Pixels) -> float:
        """sigma of y, which was made from x: the root mean square of their difference, times 255."""
        return 255 * float(np.sqrt(np.mean(np.square(y - x), dtype=np.float64)))

    def clean(self, picture: Tensor) -> Tensor:
        """What the noisy version of `picture` would be without its noise."""
        return picture


class Gaussian(Noise):
    """Additive white Gaussian noise: y = x + sigma / 255 n, with n ~ N(0, 1) for every value. Not clipped.

    From a range [low, high], sigma = low + (high - low) u^power with u uniform in [0, 1]: a power above 1
    draws weak noise more often.
    """

    def __init__(self, *, sigma: Range = 25.0, power: float = 1.0) -> None:
        self.sigma = checked("sigma", sigma)
        if power <= 0:
            raise ValueError(f"power must be positive, got {power}")
        self.power = power

    def __call__(self, picture: Tensor, generator: np.random.Generator) -> Noisy:
        sigma = self._draw(generator)
        return Noisy(to_tensor(self._add(to_pixels(picture), sigma, generator)), sigma)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        return self._add(x, self._draw(generator), generator)

    def _draw(self, generator: np.random.Generator) -> float:
        low, high = self.sigma
        sigma: float = low + (high - low) * float(generator.random()) ** self.power
        return sigma

    def _add(self, x: Pixels, sigma: float, generator: np.random.Generator) -> Pixels:
        y = white(x.shape, sigma, generator)
        y += x
        return y


class Correlated(Noise):
    """Gaussian noise that is alike in neighbouring pixels and in the channels of one pixel. Not clipped.

    y = x + sigma / 255 * G(sqrt(r) n0 + sqrt(1 - r) n), with n0 ~ N(0, 1) for every pixel, n ~ N(0, 1) for
    every value, r the `correlation` of any two channels, and G a Gaussian blur of `smoothing` pixels, scaled
    to keep the variance. Cameras and scalers leave such noise behind.
    """

    def __init__(self, *, sigma: Range = 25.0, smoothing: Range = 1.0, correlation: Range = 0.5) -> None:
        self.sigma = checked("sigma", sigma)
        self.smoothing = checked("smoothing", smoothing, most=8.0)
        self.correlation = checked("correlation", correlation, most=1.0)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        height, width, channels = x.shape
        sigma, smoothing = draw(self.sigma, generator), draw(self.smoothing, generator)
        r = draw(self.correlation, generator)
        noise = white((height, width, channels), sigma * (1 - r) ** 0.5, generator)
        noise += white((height, width, 1), sigma * r**0.5, generator)
        noise = blur(noise, smoothing)
        noise *= 1 / blur_gain(smoothing)
        noise += x
        return noise


class Poisson(Noise):
    """Photon noise: y = Poisson(peak x) / peak, where a white pixel counts `peak` photons on the average."""

    def __init__(self, *, peak: Range = 30.0) -> None:
        self.peak = checked("peak", peak, least=1e-3, most=1e9)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        peak = draw(self.peak, generator)
        y: Pixels = (generator.poisson(peak * np.maximum(x, 0)) / peak).astype(np.float32)
        return y


class PoissonGaussian(Poisson):
    """Photon noise and the noise of reading it out: y = Poisson(peak x) / peak + sigma / 255 n. Not clipped.

    Foi et al., "Practical Poissonian-Gaussian Noise Modeling and Fitting", IEEE TIP 2008.
    """

    def __init__(self, *, peak: Range = 30.0, sigma: Range = 5.0) -> None:
        super().__init__(peak=peak)
        self.sigma = checked("sigma", sigma)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        y = super().corrupt(x, generator)
        y += white(x.shape, draw(self.sigma, generator), generator)
        return y


class Speckle(Noise):
    """Noise in proportion to brightness: y = x + sigma / 255 x n, with n ~ N(0, 1). Not clipped."""

    def __init__(self, *, sigma: Range = 25.0) -> None:
        self.sigma = checked("sigma", sigma)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        y = white(x.shape, draw(self.sigma, generator), generator)
        y *= x
        y += x
        return y


class SaltPepper(Noise):
    """Dead pixels: a `fraction` of them becomes black or white, with even chances."""

    def __init__(self, *, fraction: Range = 0.05) -> None:
        self.fraction = checked("fraction", fraction, most=1.0)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        fraction, chance = draw(self.fraction, generator), generator.random((*x.shape[:2], 1), np.float32)
        y: Pixels = np.where(chance < fraction / 2, np.float32(0), np.where(chance > 1 - fraction / 2, 1, x))
        return y


class Jpeg(Noise):
    """Rounding to 8 bits and JPEG compression of this `quality` (1 to 100), chroma at half the resolution."""

    def __init__(self, *, quality: Range = (30.0, 90.0)) -> None:
        self.quality = checked("quality", quality, least=1.0, most=100.0)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        return jpeg(x, round(draw(self.quality, generator)))


class Subsample(Noise):
    """The noise of the course's data: of every cell of factor x factor pixels, a random one.

    The clean picture is that of the cells' means, so the noise is what the photograph itself varies by: heavy
    in tails, strong at edges, the same for all channels of a pixel, independent from pixel to pixel.
    """

    def __init__(self, *, factor: int = 6) -> None:
        if factor < 2:
            raise ValueError(f"factor must be at least 2; it is {factor}")
        self.scale = factor

    def __call__(self, picture: Tensor, generator: np.random.Generator) -> Noisy:
        values = cells(to_pixels(picture), self.scale)
        y = pick(values, generator)
        return Noisy(to_tensor(y), self.strength(values.mean(2), y))

    def clean(self, picture: Tensor) -> Tensor:
        return to_tensor(cells(to_pixels(picture), self.scale).mean(2))


# What the models share -----------------------------------------------------------------------------------


def checked(name: str, value: Range, *, least: float = 0.0, most: float = np.inf) -> tuple[float, float]:
    """(low, high) of a range; raises ValueError unless least <= low <= high <= most."""
    low, high = value if isinstance(value, tuple | list) else (value, value)
    if not least <= low <= high <= most:
        bounds = f"at least {least:g}" if most == np.inf else f"between {least:g} and {most:g}"
        raise ValueError(f"{name} must be {bounds}, or [low, high] in that order; it is {value}")
    return float(low), float(high)


def draw(bounds: tuple[float, float], generator: np.random.Generator) -> float:
    """A value uniform in the range."""
    return float(generator.uniform(*bounds))


def white(shape: tuple[int, ...], sigma: float, generator: np.random.Generator) -> Pixels:
    """White Gaussian noise."""
    noise: Pixels = generator.standard_normal(shape, dtype=np.float32)
    noise *= np.float32(sigma / 255)
    return noise


def blur(x: Pixels, radius: float) -> Pixels:
    """A Gaussian blur of rows and columns with this standard deviation, in pixels."""
    return x if radius < 0.1 else _gaussian_filter(x, radius, mode="reflect", axes=(0, 1))


def blur_gain(radius: float) -> float:
    """What `blur` multiplies the standard deviation of white noise by."""
    impulse = np.zeros((8 * int(radius + 1) + 1, 1, 1))
    impulse[len(impulse) // 2] = 1
    line = impulse if radius < 0.1 else _gaussian_filter(impulse, radius, axes=(0,), mode="constant")
    return float(np.sum(line**2))  # the norm of the line, once for the rows and once for the columns


def to_bytes(x: Pixels) -> NDArray[np.uint8]:
    """Clipped to [0, 1] and rounded to 8 bits."""
    y = 255 * x
    np.rint(y, out=y)
    return np.clip(y, 0, 255, out=y).astype(np.uint8)


def from_bytes(x: NDArray[np.uint8]) -> Pixels:
    return x.astype(np.float32) * np.float32(1 / 255)


def jpeg(x: Pixels, quality: int) -> Pixels:
    """What is left of a picture after JPEG."""
    file = io.BytesIO()
    pixels = to_bytes(x)
    Image.fromarray(pixels if x.shape[2] == 3 else pixels[..., 0]).save(file, "JPEG", quality=quality)
    file.seek(0)
    # Image.open would take a large picture for an attack.
    with JpegImagePlugin.JpegImageFile(file) as image:
        return from_bytes(np.asarray(image).reshape(x.shape))


def cells(x: Pixels, factor: int) -> Pixels:
    """(H, W, C) -> (H / factor, W / factor, factor^2, C): the pixels of every cell."""
    height, width, channels = x.shape[0] // factor, x.shape[1] // factor, x.shape[2]
    whole = x[: height * factor, : width * factor]
    parts = whole.reshape(height, factor, width, factor, channels).swapaxes(1, 2)
    return parts.reshape(height, width, factor**2, channels)


def pick(values: Pixels, generator: np.random.Generator) -> Pixels:
    """(H, W, K, C) -> (H, W, C): one of the K pixels of every cell."""
    height, width, count, _ = values.shape
    chosen = generator.integers(count, size=(height, width, 1, 1))
    return np.take_along_axis(values, chosen, axis=2)[:, :, 0]


def _gaussian_filter(x: NDArray[Any], radius: float, **more: Any) -> NDArray[Any]:
    """That of scipy, whose import would take a tenth of a second of every command."""
    from scipy.ndimage import gaussian_filter  # type: ignore[import-untyped, unused-ignore]

    filtered: NDArray[Any] = gaussian_filter(x, radius, **more)
    return filtered
