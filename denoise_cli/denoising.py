"""A picture denoised: measure its noise, cut it into tiles, run the network, blend.

Everything but the network works on single pixels, so a tile goes from samples to samples at once, and memory
does not grow with the picture.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral, Real
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from denoise_cli.blending import Blend
from denoise_cli.denoiser import Denoiser
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.estimation import ESTIMATORS, estimate_sigma, overall_sigma
from denoise_cli.hardware import free_memory, ran_out_of_memory
from denoise_cli.images.picture import Picture
from denoise_cli.nn.build import summary
from denoise_cli.tiling import Box, Overlap
from denoise_cli.windows import ArraySource, Pixels, Sink, Source, is_gray

Progress = Callable[[int, int], None]
"""Called after every tile: pixels done, pixels of all."""

MAX_STRENGTH = 2.0
MAX_SIGMA = 255.0

# Memory for a picture's samples and for the activations of one tile. The more is left for the activations,
# the less of a tile is overlap.
_MOST_MEMORY = 1150 * 2**20
_LEAST_FOR_ACTIVATIONS = 256 * 2**20
_SHARE_OF_FREE_MEMORY = 0.5
# Samples as they came, as they go, and what reading and writing need beside them.
_LIVE_SAMPLES = 3
# The widest activation: input, output and workspace of a convolution, and what skips hold.
_LIVE_ACTIVATIONS = 4
# The pixels of a tile: noisy, denoised, the change, its local mean and the sums for that.
_LIVE_PIXELS = 6


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a picture is to be denoised.

    `sigma`: the noise level on the 0-255 scale; None measures it. `strength`: 0 to 2, see `blending`. `luma`,
    `chroma`: strengths of brightness and of colour alone; None is `strength`. `sigma_map`: a gray picture of
    the same size, where white means `sigma`, gray that part of it, and black leaves a pixel as it is; or
    an array (H, W) or (H, W, 1) of it. `ensemble`: the mean of the network's answers to the eight flips and
    turns of the picture. `tile`: height and width of what is computed at once, overlap not counted; "auto"
    fits it to the free memory, "off" takes the picture whole. `keep_mean`: brightness and colour stay as they
    are in every place; False takes the bare answer of the network.

    Raises UsageError for a value out of range, or of another kind.
    """

    sigma: float | None = None
    strength: float = 1.0
    luma: float | None = None
    chroma: float | None = None
    sigma_map: Source | None = None
    ensemble: bool = False
    tile: int | Literal["auto", "off"] = "auto"
    keep_mean: bool = True

    def __post_init__(self) -> None:
        _check("strength", self.strength, MAX_STRENGTH)
        for name, most in (("sigma", MAX_SIGMA), ("luma", MAX_STRENGTH), ("chroma", MAX_STRENGTH)):
            if getattr(self, name) is not None:
                _check(name, getattr(self, name), most)
        whole = isinstance(self.tile, Integral) and self.tile >= 1
        if not whole and self.tile not in ("auto", "off"):
            raise UsageError(f"tile must be at least 1 pixel, auto or off; it is {self.tile!r}")
        if self.sigma_map is not None:
            object.__setattr__(self, "sigma_map", _map(self.sigma_map))

    @property
    def blend(self) -> Blend:
        """How much of the network's answer is taken."""
        luma = self.strength if self.luma is None else self.luma
        chroma = self.strength if self.chroma is None else self.chroma
        return Blend(luma, chroma, self.ensemble, self.keep_mean)

    @property
    def changes_nothing(self) -> bool:
        return self.blend.luma == self.blend.chroma == 0


def _check(name: str, value: Any, most: float) -> None:
    if not isinstance(value, Real) or not 0 <= float(value) <= most:
        shown = f"{float(value):g}" if isinstance(value, Real) else repr(value)
        raise UsageError(f"{name} must be between 0 and {most:g}; it is {shown}")


def _map(given: Any) -> Source:
    """A sigma map as a source. Raises UsageError for what is none."""
    if isinstance(given, np.ndarray):
        known = given.dtype in (np.uint8, np.uint16) or np.issubdtype(given.dtype, np.floating)
        array = given[..., None] if given.ndim == 2 else given
        given = ArraySource(array) if known and array.ndim == 3 else None
    if getattr(given, "channels", None) != 1:
        raise UsageError(
            "sigma_map must be a gray picture, or an array (H, W) or (H, W, 1) of uint8, uint16 or floating"
            " numbers"
        )
    source: Source = given
    return source


@dataclass(frozen=True)
class Noise:
    """A picture's noise on the 0-255 scale: what the network is told, and where it was measured, the white
    noise of every channel."""

    sigma: float
    channels: tuple[float, ...] = ()

    @property
    def white(self) -> float:
        """The white noise of all channels."""
        return overall_sigma(np.array(self.channels))


def measure_noise(denoiser: Denoiser, source: Source, settings: Settings) -> Noise:
    """The sigma that was given, or else what the denoiser's estimator finds."""
    if settings.sigma is not None:
        return Noise(settings.sigma)
    channels = tuple(float(sigma) for sigma in estimate_sigma(source))
    if denoiser.estimator == "white":
        return Noise(overall_sigma(np.array(channels)), channels)
    return Noise(ESTIMATORS[denoiser.estimator](source), channels)


def denoise_picture(
    denoiser: Denoiser,
    picture: Picture,
    settings: Settings | None = None,
    *,
    noise: Noise | None = None,
    in_place: bool = False,
    progress: Progress | None = None,
) -> Picture:
    """The picture with less noise, and all else as it was.

    `noise`: what `measure_noise` found, if that is known already. `in_place`: in the memory of `picture`,
    whose samples are lost by that: half the memory for a large one.

    Raises UsageError where the settings do not fit the model or the picture, DenoiseError where memory is not
    enough.
    """
    settings = settings or Settings()
    if settings.changes_nothing:
        return picture
    noise = noise or measure_noise(denoiser, picture, settings)
    result = picture.empty_result(in_place=in_place)
    samples = picture.samples.nbytes
    _denoise(
        denoiser, picture, result, settings, noise, samples=samples, settle=result.settle, progress=progress
    )
    return result.picture()


def denoise_pixels(
    denoiser: Denoiser,
    pixels: NDArray[Any],
    settings: Settings | None = None,
    *,
    noise: Noise | None = None,
    progress: Progress | None = None,
) -> Pixels:
    """Float pixels (H, W, C) with less noise, neither clipped nor rounded.

    `pixels`: floating numbers with white at 1, or integer samples. Raises as `denoise_picture`.
    """
    settings = settings or Settings()
    source = ArraySource(pixels)
    if settings.changes_nothing:
        return source.window(0, source.height, 0, source.width)
    noise = noise or measure_noise(denoiser, source, settings)
    result = np.empty(pixels.shape, np.float32)
    _denoise(denoiser, source, result, settings, noise, samples=pixels.nbytes, progress=progress)
    return result


def _denoise(
    denoiser: Denoiser,
    source: Source,
    sink: Sink,
    settings: Settings,
    noise: Noise,
    *,
    samples: int,
    settle: Callable[[int], None] | None = None,
    progress: Progress | None,
) -> None:
    """Fills `sink` with the denoised pixels of `source`, tile by tile. `samples`: bytes that these take.

    `settle`: called before every tile with the first row that is still to be read.
    """
    whole = Box(0, source.height, 0, source.width)
    mask = settings.sigma_map
    if mask is not None and (mask.height, mask.width) != (whole.height, whole.width):
        sizes = f"{mask.width} x {mask.height} pixels, the picture {whole.width} x {whole.height}"
        raise UsageError(f"the sigma map is {sizes}: they must be alike")
    blend = settings.blend
    overlap = Overlap.of(blend.margin(denoiser), denoiser.reach.period)
    # Decided for the whole picture: a gray tile of one in colour must be computed as its neighbours are.
    channels = 1 if is_gray(source) else source.channels

    def tensor(read_from: Source, box: Box) -> Tensor:
        pixels = torch.from_numpy(read_from.window(box.y0, box.y1, box.x0, box.x1))
        return pixels.permute(2, 0, 1)[None].to(denoiser.device)

    def compute(box: Box) -> None:
        read = overlap.around(box, whole) if overlap else whole
        scale = tensor(mask, read) if mask is not None else None
        y = blend.apply(denoiser, tensor(source, read)[:, :channels], noise.sigma, scale)
        y = y[0].expand(source.channels, -1, -1).permute(1, 2, 0)
        sink[box.slices] = y[box.inside(read).slices].cpu().numpy()

    done = 0
    for box in _tiles(denoiser, overlap, whole, settings, samples):
        if settle and overlap:
            settle(box.y0 - overlap.margin)
        _compute_or_split(compute, box, overlap)
        done += box.height * box.width
        if progress:
            progress(done, whole.height * whole.width)


def _tiles(
    denoiser: Denoiser, overlap: Overlap | None, whole: Box, settings: Settings, samples: int
) -> list[Box]:
    if overlap is None and not isinstance(settings.tile, str):
        raise UsageError(
            "this model looks at the whole picture at once, so tiles would change it: --tile off"
        )
    if overlap is None or settings.tile == "off":
        return [whole]
    if settings.tile == "auto":
        height, width = overlap.shape_for(whole, _affordable_pixels(denoiser, samples))
    else:
        height = width = overlap.aligned(settings.tile)
    return list(overlap.cut(whole, height, width))


def _affordable_pixels(denoiser: Denoiser, samples: int) -> float:
    """How many pixels the network may compute at once, by the memory that is free."""
    side = 16 * denoiser.reach.period
    planes = denoiser.channels + denoiser.noise_level
    rows = summary(denoiser.net, (1, planes, side, side))
    widest = max((int(np.prod(row.output_shape)) for row in rows), default=planes * side**2)
    bytes_per_pixel = 4 * (_LIVE_ACTIVATIONS * widest / side**2 + _LIVE_PIXELS * denoiser.channels)
    wanted = max(_MOST_MEMORY - _LIVE_SAMPLES * samples, _LEAST_FOR_ACTIVATIONS)
    return min(wanted, _SHARE_OF_FREE_MEMORY * free_memory(denoiser.device)) / bytes_per_pixel


def _compute_or_split(compute: Callable[[Box], None], box: Box, overlap: Overlap | None) -> None:
    """Computes a tile; where memory is short, its quarters and theirs, down to the size of the margin."""
    try:
        compute(box)
        return
    except (MemoryError, RuntimeError) as error:
        if not ran_out_of_memory(error):
            raise
        # Parts that are small against the margin would read nearly as much as the tile itself.
        if overlap is None or max(box.height, box.width) <= overlap.margin:
            advice = "" if overlap else ", or take a model without global operations, which works in tiles"
            size = f"{box.width} x {box.height} pixels"
            raise DenoiseError(
                f"not enough memory for {size} at once: close other programs{advice}"
            ) from error
    # After the except clause, because the traceback keeps the memory of the failed attempt alive.
    for part in overlap.cut(box, overlap.aligned(box.height / 2), overlap.aligned(box.width / 2)):
        _compute_or_split(compute, part, overlap)
