"""What real photographs suffer from: a mixture of noises, resizing, rounding to 8 bits and JPEG."""

import math

import numpy as np
from PIL import Image

from denoise_cli.data.camera_noise import Camera
from denoise_cli.data.noise_models import (
    Correlated,
    Gaussian,
    Noise,
    Pixels,
    Range,
    checked,
    draw,
    from_bytes,
    jpeg,
    to_bytes,
)


class Photo(Noise):
    """One noise of several, drawn for each picture, and then what happens to a photograph until it is a file.

    `camera`, `gaussian`, `correlated`, `untouched`: how often each is drawn, as weights. An untouched picture
    stays exactly what it is, so that a network learns to leave clean ones alone.

    `sigma`: of the gaussian noise. `correlated_sigma`, `smoothing`, `correlation`: of the correlated noise.
    `shot`, `luma_smoothing`, `chroma_smoothing`: of the camera noise.

    `resample`: how often a picture was resized after the noise was in it, by 1 / `resize` (drawn uniformly in
    its logarithm). Only the noise is: a resized clean picture is a clean picture. `jpeg`: how often it was
    compressed, with this `quality`. All but the untouched are clipped and rounded to 8 bits.
    """

    def __init__(
        self,
        *,
        camera: float = 0.55,
        gaussian: float = 0.2,
        correlated: float = 0.15,
        untouched: float = 0.1,
        sigma: Range = (0.0, 50.0),
        correlated_sigma: Range = (0.0, 25.0),
        smoothing: Range = (0.0, 2.0),
        correlation: Range = (0.0, 0.9),
        shot: Range = (5e-5, 0.012),
        luma_smoothing: Range = (0.0, 1.0),
        chroma_smoothing: Range = (0.0, 4.0),
        resample: float = 0.25,
        resize: Range = (0.5, 2.0),
        jpeg: float = 0.5,
        quality: Range = (70.0, 98.0),
    ) -> None:
        weights = np.array([camera, gaussian, correlated, untouched])
        if not (np.isfinite(weights).all() and weights.min() >= 0 and weights.sum() > 0):
            raise ValueError("camera, gaussian, correlated and untouched must be at least 0, and not all 0")
        self.probabilities = weights / weights.sum()
        self.noises = (
            Camera(shot=shot, luma_smoothing=luma_smoothing, chroma_smoothing=chroma_smoothing),
            Gaussian(sigma=sigma),
            Correlated(sigma=correlated_sigma, smoothing=smoothing, correlation=correlation),
        )
        self.resample, _ = checked("resample", resample, most=1.0)
        self.resize = checked("resize", resize, least=0.1, most=10.0)
        self.jpeg, _ = checked("jpeg", jpeg, most=1.0)
        self.quality = checked("quality", quality, least=1.0, most=100.0)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        kind = generator.choice(len(self.probabilities), p=self.probabilities)
        if kind == len(self.noises):
            return x.copy()
        noise = self.noises[kind]
        if generator.random() < self.resample:
            y = self._resampled(noise, x, generator)
        else:
            y = noise.corrupt(x, generator)
        if generator.random() < self.jpeg:
            return jpeg(y, round(draw(self.quality, generator)))
        return from_bytes(to_bytes(y))

    def _resampled(self, noise: Noise, x: Pixels, generator: np.random.Generator) -> Pixels:
        """The noise is made at another size, and comes back to this one as the picture is resized."""
        factor = math.exp(draw((math.log(self.resize[0]), math.log(self.resize[1])), generator))
        height, width, _ = x.shape
        before = np.clip(resized(x, max(1, round(factor * height)), max(1, round(factor * width))), 0, 1)
        y = resized(noise.corrupt(before, generator) - before, height, width)
        y += x
        return y


def resized(x: Pixels, height: int, width: int) -> Pixels:
    """A picture at another size: bicubic, with an anti-aliasing filter where it shrinks."""
    planes = (Image.fromarray(plane) for plane in x.transpose(2, 0, 1))
    return np.stack([np.asarray(p.resize((width, height), Image.Resampling.BICUBIC)) for p in planes], axis=2)
