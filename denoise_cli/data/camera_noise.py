"""The noise of a camera: made where light is counted, then carried through all that a camera does to it.

An sRGB picture is taken back to what the sensor saw, noise is added there, and the difference goes forward
again: demosaicing, colour matrix, tone curve, noise reduction. So it is stronger in the shadows than in the
lights, alike in neighbouring pixels, and blotchy in colour.

After Brooks et al., "Unprocessing Images for Learned Raw Denoising", CVPR 2019: camera matrices, white
balance, tone curve and sensor noise are drawn as there. Unlike there, only the noise is demosaiced, not the
picture: noise is what is to be removed, and a network that also learnt to undo a demosaicing would sharpen.
"""

import math

import numpy as np
from numpy.typing import NDArray

from denoise_cli.data.noise_models import Noise, Pixels, Range, blur, checked, draw
from denoise_cli.images import in_channels

Matrix = NDArray[np.float64]

XYZ_TO_CAMERA: Matrix = np.array(
    [
        [[1.0234, -0.2969, -0.2266], [-0.5625, 1.6328, -0.0469], [-0.0703, 0.2188, 0.6406]],
        [[0.4913, -0.0541, -0.0202], [-0.6130, 1.3513, 0.2906], [-0.1564, 0.2151, 0.7183]],
        [[0.8380, -0.2630, -0.0639], [-0.2887, 1.0725, 0.2496], [-0.0627, 0.1427, 0.5438]],
        [[0.6596, -0.2079, -0.0562], [-0.4782, 1.3016, 0.1933], [-0.0970, 0.1581, 0.5181]],
    ]
)
"""The colour matrices of the four cameras of the Darmstadt Noise Dataset (Ploetz and Roth, CVPR 2017)."""

SRGB_TO_XYZ: Matrix = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)

READ_SLOPE, READ_OFFSET, READ_SPREAD = 2.18, 1.20, 0.26
"""log(read variance) ~ N(slope log(shot) + offset, spread^2), fitted to the cameras of the same dataset."""


class Camera(Noise):
    """Sensor noise as a camera's JPEG engine leaves it, clipped to [0, 1].

    With v = what the sensor saw, in [0, 1]: n ~ N(0, shot v + read), one value for each pixel of the mosaic.

    `shot`: variance of photon noise at v = 1, drawn uniformly in its logarithm; `read` follows from it.
    `exposure`: how much of the sensor's range a white picture fills. `red_gain`, `blue_gain`: white balance.
    `gamma`: exponent of the tone curve; more than the usual 2.2 where the camera lifts the shadows.
    `luma_smoothing`, `chroma_smoothing`: radius in pixels of the camera's own noise reduction, stronger in
    colour than in brightness as eyes see less of it there.
    """

    def __init__(
        self,
        *,
        shot: Range = (5e-5, 0.012),
        exposure: Range = (0.6, 1.0),
        red_gain: Range = (1.9, 2.4),
        blue_gain: Range = (1.5, 1.9),
        gamma: Range = (2.0, 3.0),
        luma_smoothing: Range = (0.0, 1.0),
        chroma_smoothing: Range = (0.0, 4.0),
    ) -> None:
        self.shot = checked("shot", shot, least=1e-9, most=1.0)
        self.exposure = checked("exposure", exposure, least=1e-3, most=1.0)
        self.red_gain = checked("red_gain", red_gain, least=1.0)
        self.blue_gain = checked("blue_gain", blue_gain, least=1.0)
        self.gamma = checked("gamma", gamma, least=1.0, most=5.0)
        self.luma_smoothing = checked("luma_smoothing", luma_smoothing, most=8.0)
        self.chroma_smoothing = checked("chroma_smoothing", chroma_smoothing, most=8.0)

    def corrupt(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        error = self._error(in_channels(x, 3), generator)
        error = in_channels(error, x.shape[2])
        error += x
        return np.clip(error, 0, 1, out=error)

    def _error(self, x: Pixels, generator: np.random.Generator) -> Pixels:
        gamma, to_sensor = draw(self.gamma, generator), self._colour_matrix(generator)
        log_shot = draw((math.log(self.shot[0]), math.log(self.shot[1])), generator)
        log_read = generator.normal(READ_SLOPE * log_shot + READ_OFFSET, READ_SPREAD)
        sensor = to_linear(x, gamma) @ to_sensor.T.astype(np.float32)
        sensor += mosaic_noise(sensor, math.exp(log_shot), math.exp(log_read), generator)
        y = from_linear(sensor @ np.linalg.inv(to_sensor).T.astype(np.float32), gamma)
        y -= x
        grey = in_channels(y, 1)
        y -= grey
        y = blur(y, draw(self.chroma_smoothing, generator))
        y += blur(grey, draw(self.luma_smoothing, generator))
        return y

    def _colour_matrix(self, generator: np.random.Generator) -> Matrix:
        """Linear sRGB -> sensor values, of a camera somewhere between the four, that keeps grey grey."""
        matrix: Matrix = np.tensordot(generator.dirichlet(np.ones(4)), XYZ_TO_CAMERA, 1) @ SRGB_TO_XYZ
        matrix /= matrix.sum(1, keepdims=True)
        gains = np.array([[draw(self.red_gain, generator)], [1.0], [draw(self.blue_gain, generator)]])
        matrix *= draw(self.exposure, generator) / gains
        return matrix


def mosaic_noise(sensor: Pixels, shot: float, read: float, generator: np.random.Generator) -> Pixels:
    """Noise of a Bayer sensor that sees `sensor`, (H, W, 3), after bilinear demosaicing.

    Each pixel has one colour and its own noise; the other two colours come from its neighbours.
    """
    row, column = (int(n) for n in generator.integers(2, size=2))  # of the first red pixel
    red = np.s_[row::2, column::2]
    blue = np.s_[1 - row :: 2, 1 - column :: 2]
    seen = sensor[..., 1].copy()
    seen[red], seen[blue] = sensor[..., 0][red], sensor[..., 2][blue]
    noise = generator.standard_normal(seen.shape, dtype=np.float32)
    noise *= np.sqrt(np.maximum(shot * seen + read, 0))

    # a border of one pixel moves red to where blue was; reflection keeps the colours in step beyond it
    red, blue = blue, red
    green_only = np.pad(noise, 1, mode="reflect")
    red_only, blue_only = np.zeros_like(green_only), np.zeros_like(green_only)
    for plane, own in (red_only, red), (blue_only, blue):
        plane[own] = green_only[own]
        green_only[own] = 0
    planes = _interpolated(red_only), _interpolated_green(green_only), _interpolated(blue_only)
    return np.stack(planes, axis=2)


def _interpolated(plane: Pixels) -> Pixels:
    """Fills a plane of which every other row and column is known; takes its border off."""
    rows = plane[1:-1] + 0.5 * (plane[:-2] + plane[2:])
    filled: Pixels = rows[:, 1:-1] + 0.5 * (rows[:, :-2] + rows[:, 2:])
    return filled


def _interpolated_green(plane: Pixels) -> Pixels:
    """The same for a plane that is known on the squares of one colour of a chessboard."""
    beside = plane[1:-1, :-2] + plane[1:-1, 2:] + plane[:-2, 1:-1] + plane[2:, 1:-1]
    filled: Pixels = plane[1:-1, 1:-1] + 0.25 * beside
    return filled


def to_linear(x: Pixels, gamma: float) -> Pixels:
    """sRGB y in [0, 1] -> linear light v, where y = 3 s^2 - 2 s^3 and s = v^(1/gamma)."""
    s: Pixels = 0.5 - np.sin(np.arcsin(1 - 2 * np.clip(x, 0, 1)) / 3)
    return power(s, gamma)


def from_linear(v: Pixels, gamma: float) -> Pixels:
    """The inverse of `to_linear`; what lies outside [0, 1] is clipped."""
    s = power(np.minimum(v, 1), 1 / gamma)
    y: Pixels = s * s * (3 - 2 * s)
    return y


def power(x: Pixels, exponent: float) -> Pixels:
    """x^exponent for x >= 0, at a quarter of the time of `**`."""
    y: Pixels = np.exp(exponent * np.log(np.maximum(x, 1e-9)))
    return y
