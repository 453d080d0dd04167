"""Dead leaves: pictures made of opaque shapes that fall on each other, a stand-in for natural photographs.

Shapes whose radii follow the power law p(r) ~ r^-3 give pictures with the scale invariance, the edges and
the heavy-tailed gradients of natural ones: a network that never saw a photograph can learn from them.

Lee, Mumford and Huang, "Occlusion Models for Natural Images", IJCV 2001; textures and blurred edges as in
Achddou, Gousseau and Ladjal, "Fully synthetic training for image restoration tasks", CVIU 2023.
"""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from denoise_cli.data.sources import Bytes, Part, Pictures
from denoise_cli.errors import UsageError
from denoise_cli.images import in_channels

Field = NDArray[np.floating[Any]]

OPPONENT = np.array([[1, 1, 1], [1, 0.2, -1.2], [0.7, -0.7, 0.1]], dtype=np.float32)
"""Rows: luma, yellow-blue, red-green; the axes along which colours of natural pictures vary independently."""

COVERAGE = 3.0
"""The area of all leaves, as discs, by that of the picture; where none falls the background shows."""


class SyntheticSource(Pictures):
    """`count` dead-leaves pictures of size x size pixels, each made when it is first asked for.

    A picture follows from (take, index) alone. `take: holdout` gives other pictures than `take: train`.
    """

    def __init__(self, *, channels: int = 3, count: int = 1000, size: int = 96, take: Part = "train") -> None:
        if count < 1 or size < 8:
            raise UsageError(f"data: count must be at least 1 and size 8; they are {count} and {size}")
        self.channels, self.size = channels, size
        self._series = int(take == "holdout")
        self._pictures: list[Bytes | None] = [None] * count

    def __len__(self) -> int:
        return len(self._pictures)

    def pixels(self, index: int) -> Bytes:
        picture = self._pictures[index]
        if picture is None:  # two threads may both come here: they make the same picture
            picture = dead_leaves(self.size, np.random.default_rng([self._series, index]))
            if self.channels == 1:
                picture = np.rint(in_channels(picture.astype(np.float32), 1)).astype(np.uint8)
            self._pictures[index] = picture
        return picture


def dead_leaves(size: int, generator: np.random.Generator) -> Bytes:
    """One picture, (size, size, 3)."""
    canvas = Canvas(size, generator)
    smallest = np.exp(generator.uniform(np.log(1.5), np.log(10.0)))
    largest = size / 1.5
    mean_square = 2 * np.log(largest / smallest) / (smallest**-2 - largest**-2)
    leaves = int(COVERAGE * size**2 / (np.pi * mean_square))
    # the inverse of the distribution function of p(r) ~ r^-3 between smallest and largest
    radii = (smallest**-2 - generator.random(leaves) * (smallest**-2 - largest**-2)) ** -0.5
    for radius in radii:
        canvas.drop(float(radius))
    return canvas.bytes()


class Canvas:
    """A picture in the making, and what its leaves have in common: light, palette, texture, focus."""

    def __init__(self, size: int, generator: np.random.Generator) -> None:
        self.size, self.generator = size, generator
        self.mean_luma = generator.uniform(0.25, 0.7)
        self.luma_spread = generator.uniform(0.1, 0.3)
        self.tint = generator.normal(0, [0.07, 0.04])
        self.colourfulness = generator.gamma(2.0, 0.5)
        self.defocus = generator.uniform(1.0, 2.5)
        self.texture = np.tile(power_law_field(size, generator.uniform(0.4, 1.4), generator), (2, 2))
        self.rows, self.columns = (
            np.arange(size, dtype=np.float32)[:, None],
            np.arange(size, dtype=np.float32),
        )
        self.pixels = np.empty((size, size, 3), np.float32)
        self.pixels[:] = self._paint(self.rows - size / 2, self.columns - size / 2, float(size))

    def drop(self, radius: float) -> None:
        """Lets a leaf fall anywhere; what lies under it is hidden."""
        generator = self.generator
        # only the visible part of the plane where such a leaf can be seen
        y, x = generator.uniform(-radius, self.size + radius, 2)
        top, left = (max(int(c - radius) - 2, 0) for c in (y, x))
        bottom, right = (min(int(c + radius) + 3, self.size) for c in (y, x))
        if top >= bottom or left >= right:
            return
        v, u = self.rows[top:bottom] - float(y), self.columns[left:right] - float(x)
        inside = _depth(u, v, radius, generator)
        softness = 1.0 if generator.random() < 0.7 else self.defocus
        alpha = np.clip(inside / softness + 0.5, 0, 1)[..., None]
        under = self.pixels[top:bottom, left:right]
        under += alpha * (self._paint(v, u, radius, top, left) - under)

    def bytes(self) -> Bytes:
        """The picture under a light that falls off to one side, as bytes."""
        angle, fall = self.generator.uniform(0, 2 * np.pi), self.generator.uniform(0, 0.3)
        ramp = (math.sin(angle) * self.rows + math.cos(angle) * self.columns) / self.size
        light = 1 - fall * (ramp - ramp.min())
        pixels: Bytes = np.round(255 * np.clip(self.pixels * light[..., None], 0, 1)).astype(np.uint8)
        return pixels

    def _paint(self, v: Field, u: Field, radius: float, top: int = 0, left: int = 0) -> Field:
        """Colour, gradient and texture of a leaf at the offsets (v, u) from its middle."""
        generator = self.generator
        shade = (generator.normal(0, 0.12) * u + generator.normal(0, 0.12) * v) / radius
        kind = generator.random()
        if kind < 0.5:  # grain, stone, foliage
            down, across = generator.integers(self.size, size=2)
            grain = self.texture[top + down :, left + across :][: shade.shape[0], : shade.shape[1]]
            shade = shade + generator.exponential(0.05) * grain
        elif kind < 0.65:  # stripes, cloth, blinds
            angle, wavelength = generator.uniform(0, np.pi), generator.uniform(2.5, 3 + radius)
            phase = (math.cos(angle) * u + math.sin(angle) * v) * (2 * np.pi / wavelength)
            shade = shade + generator.exponential(0.06) * np.sin(phase)
        luma = generator.normal(self.mean_luma, self.luma_spread)
        chroma = self.tint + self.colourfulness * generator.laplace(0, [0.08, 0.05])
        colour = luma * OPPONENT[0] + chroma @ OPPONENT[1:]
        colour = np.clip(colour, 0.02, 0.98).astype(np.float32)
        painted: Field = colour * (1 + 2 * shade[..., None])  # texture is more or less of the same colour
        return painted


def _depth(u: Field, v: Field, radius: float, generator: np.random.Generator) -> Field:
    """Distance to the border of an ellipse or a polygon, in pixels, positive inside."""
    angle = generator.uniform(0, 2 * np.pi)
    if generator.random() < 0.5:
        squeeze = generator.uniform(0.3, 1.0)
        along = math.cos(angle) * u + math.sin(angle) * v
        across = (math.cos(angle) * v - math.sin(angle) * u) / squeeze
        return squeeze * (radius - _length(along, across))
    sides = int(generator.integers(3, 7))
    angles = angle + 2 * np.pi * (np.arange(sides) + generator.uniform(-0.25, 0.25, sides)) / sides
    reach = radius * generator.uniform(0.4, 0.8, sides)
    depth = radius - _length(u, v)  # keeps the corners inside the circle
    for side, distance in zip(angles.tolist(), reach.tolist(), strict=True):
        np.minimum(depth, distance - math.cos(side) * u - math.sin(side) * v, out=depth)
    return depth


def _length(u: Field, v: Field) -> Field:
    length: Field = np.sqrt(u * u + v * v)  # faster than np.hypot, which guards against overflow
    return length


def power_law_field(size: int, exponent: float, generator: np.random.Generator) -> Field:
    """A periodic random field with the amplitude spectrum f^-exponent, of mean 0 and variance 1."""
    frequency = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    frequency[0, 0] = np.inf
    spectrum = np.fft.rfft2(generator.standard_normal((size, size))) * frequency**-exponent
    values = np.fft.irfft2(spectrum, (size, size))
    field: Field = (values / values.std()).astype(np.float32)
    return field
