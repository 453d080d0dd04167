"""A picture as the denoiser sees it: integer samples as they were stored, float pixels on demand.

Only the samples are ever held whole (3 bytes a pixel for an 8-bit photo); float pixels exist for one window
at a time, and a result is rounded back to samples window by window. That is what keeps 100 megapixels small,
and what makes an unchanged pixel come back bit for bit.
"""

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from denoise_cli.errors import DenoiseError

Samples = NDArray[Any]  # uint8 or uint16
Pixels = NDArray[np.float32]
Color = Literal["gray", "rgb", "cmyk"]
Alpha = Literal["none", "straight", "premultiplied"]

COLOR_SAMPLES: dict[Color, int] = {"gray": 1, "rgb": 3, "cmyk": 4}
MAX_PIXELS = 500_000_000
# Below this share of unprinted paper the inks cannot show: it bounds how far they are moved (see _inks).
_LEAST_PAPER = 0.25


def check_size(width: int, height: int, sample_bytes: int = 3) -> None:
    """Refuse a picture by the size its header claims, before anything is decoded.

    Raises:
        DenoiseError: no pixels at all, or more than MAX_PIXELS of them.
    """
    if width < 1 or height < 1:
        raise DenoiseError(f"damaged: it claims a size of {width} x {height} pixels")
    if width * height > MAX_PIXELS or width * height * sample_bytes > 8 * MAX_PIXELS:
        raise DenoiseError(
            f"claims {width} x {height} pixels, more than the limit of {MAX_PIXELS // 10**6} megapixels"
        )


def from_pillow(image: Any) -> Samples:
    """The samples (H, W, S) of an 8-bit Pillow image, by a few rows: all at once would take them twice."""
    image.load()
    samples = np.empty((image.height, image.width, len(image.getbands())), np.uint8)
    for y in range(0, image.height, 256):
        rows = np.asarray(image.crop((0, y, image.width, min(y + 256, image.height))))
        samples[y : y + 256] = rows.reshape(-1, image.width, samples.shape[2])
    return samples


@dataclass(frozen=True)
class Keep:
    """All that belongs to a picture and that a denoiser must not change.

    Attributes:
        format: name of the format it was read from.
        icc: the ICC colour profile.
        exif: EXIF as a little TIFF file ("II*" or "MM*" first), the form JPEG, PNG and WebP embed.
        xmp: the XMP packet.
        iptc: the IPTC-IIM records.
        dpi: horizontal and vertical pixels per inch.
        lossy: the file was compressed with loss, so lossy compression is expected again.
        native: what only this format can carry; read by its own codec alone.
        bound: names of what only this format can carry, lost when another one is written.
        original: the file itself where encoding it again would lose something even from an unchanged picture
            (lossy compression, a palette); gone as soon as a sample changes.
        notes: what was already left behind in reading, a short phrase each.
    """

    format: str = "png"
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    iptc: bytes | None = None
    dpi: tuple[float, float] | None = None
    lossy: bool = False
    native: Any = None
    bound: tuple[str, ...] = ()
    original: bytes | None = field(default=None, repr=False)
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, eq=False)
class Picture:
    """Samples of one picture and what to keep with them.

    Attributes:
        samples: (H, W, S) uint8 or uint16 as stored: colours, then alpha, then channels of unknown meaning.
        color: "gray", "rgb" or "cmyk": 1, 3 or 4 colour samples.
        alpha: "none", "straight", or "premultiplied" (colours already multiplied by alpha, some TIFFs).
        keep: everything else.

    What a denoiser may change is `pixels` / `window`: float32 (h, w, C) in [0, 1], C = 1 for gray, else 3.
    CMYK shows as the colour it prints, R = (1 - C)(1 - K); the black separation is kept and the three inks
    take the change. Alpha, extra channels and the colour under fully transparent pixels are never touched.
    """

    samples: Samples
    color: Color
    alpha: Alpha = "none"
    keep: Keep = field(default_factory=Keep)

    def __post_init__(self) -> None:
        if self.samples.ndim != 3 or self.samples.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"samples must be (H, W, S) uint8 or uint16, not {self.samples.dtype}")
        if self.samples.shape[2] < COLOR_SAMPLES[self.color] + (self.alpha != "none"):
            raise ValueError(
                f"{self.samples.shape[2]} samples are too few for {self.color}, alpha {self.alpha}"
            )

    @property
    def height(self) -> int:
        return int(self.samples.shape[0])

    @property
    def width(self) -> int:
        return int(self.samples.shape[1])

    @property
    def channels(self) -> int:
        """C of the pixels: 1 for gray, 3 for colour."""
        return 1 if self.color == "gray" else 3

    @property
    def bits(self) -> int:
        """Bits a sample: 8 or 16."""
        return 8 * self.samples.dtype.itemsize

    @property
    def extra(self) -> int:
        """Number of channels beyond colour and alpha."""
        return int(self.samples.shape[2]) - COLOR_SAMPLES[self.color] - (self.alpha != "none")

    @property
    def pixels(self) -> Pixels:
        """The whole picture as float32 (H, W, C) in [0, 1]: 4 to 12 bytes a pixel, so for small pictures."""
        return self.window(0, self.height, 0, self.width)

    def window(self, y0: int, y1: int, x0: int, x1: int) -> Pixels:
        """Rows y0..y1 and columns x0..x1 (ends excluded) as float32 (y1 - y0, x1 - x0, C) in [0, 1]."""
        return _pixels(self.samples[y0:y1, x0:x1], self.color)

    def empty_result(self, *, in_place: bool = False) -> "Result":
        """A result to be filled window by window; what is not filled stays black.

        `in_place`: the result takes the memory of this picture, which is lost by that; see `Result.settle`.
        """
        return Result(self, in_place=in_place)

    def replace_pixels(self, pixels: NDArray[Any]) -> "Picture":
        """The same picture with other pixels, (H, W, C) in [0, 1], rounded to its sample type."""
        result = self.empty_result()
        result[:, :] = pixels
        return result.picture()

    @classmethod
    def from_pixels(cls, pixels: NDArray[Any], *, bits: int = 8) -> "Picture":
        """A new picture of float pixels (H, W, C) in [0, 1], C = 1 or 3, with 8 or 16 bits a sample."""
        if pixels.ndim != 3 or pixels.shape[2] not in (1, 3):
            raise ValueError(f"pixels must be (H, W, 1) or (H, W, 3), not {pixels.shape}")
        samples = _quantise(pixels, np.dtype(np.uint8 if bits == 8 else np.uint16))
        return cls(samples, "gray" if pixels.shape[2] == 1 else "rgb")


class Result:
    """The samples of a denoised picture, filled window by window: `result[y0:y1, x0:x1] = pixels`.

    In place, windows wait beside the picture, because other windows are still to be computed from it, until
    `settle` says that they are not.
    """

    def __init__(self, source: Picture, *, in_place: bool = False) -> None:
        self._source, self._in_place = source, in_place and source.samples.flags.writeable
        self._samples = source.samples if self._in_place else np.zeros_like(source.samples)
        self._waiting: list[tuple[tuple[slice, slice], Samples]] = []
        self._changed = False

    def __setitem__(self, window: tuple[slice, slice], pixels: NDArray[Any]) -> None:
        """Round float pixels (h, w, C) in [0, 1] into the window. Values outside are clipped.

        Raises:
            DenoiseError: a pixel is not a number.
            ValueError: the pixels do not have the window's shape.
        """
        old = self._source.samples[window]
        shape = (*old.shape[:2], self._source.channels)
        if pixels.shape != shape:
            raise ValueError(f"the window takes pixels of shape {shape}, not {pixels.shape}")
        if not np.isfinite(pixels).all():
            raise DenoiseError("the model gave values that are not numbers; nothing was written")
        new = old.copy()
        colors = COLOR_SAMPLES[self._source.color]
        if self._source.color == "cmyk":
            new[..., :3] = _inks(pixels, old)
        else:
            new[..., :colors] = _quantise(pixels, old.dtype)
        if self._source.alpha != "none":
            alpha = old[..., colors : colors + 1]
            if self._source.alpha == "premultiplied":
                limit = np.maximum(alpha, old[..., :colors])
                new[..., :colors] = np.minimum(new[..., :colors], limit)
            new[..., :colors] = np.where(alpha == 0, old[..., :colors], new[..., :colors])
        self._changed = self._changed or not np.array_equal(new, old)
        if self._in_place:
            self._waiting.append((window, new))
        else:
            self._samples[window] = new

    def settle(self, row: int) -> None:
        """Takes note that nothing above this row will be read from the picture any more."""
        waiting, self._waiting = self._waiting, []
        for window, new in waiting:
            if window[0].indices(self._source.height)[1] <= row:
                self._samples[window] = new
            else:
                self._waiting.append((window, new))

    def picture(self) -> Picture:
        """The finished picture. It shares the result's memory: fill nothing more afterwards."""
        self.settle(self._source.height)
        keep = replace(self._source.keep, original=None) if self._changed else self._source.keep
        return replace(self._source, samples=self._samples, keep=keep)


def _pixels(samples: Samples, color: Color) -> Pixels:
    peak = np.float32(np.iinfo(samples.dtype).max)
    if color != "cmyk":
        return samples[..., : COLOR_SAMPLES[color]].astype(np.float32) / peak
    unprinted = 1 - samples[..., :4].astype(np.float32) / peak
    return unprinted[..., :3] * unprinted[..., 3:]


def _quantise(pixels: NDArray[Any], dtype: np.dtype[Any]) -> Samples:
    peak = np.iinfo(dtype).max
    samples: Samples = np.rint(np.clip(pixels, 0, 1) * np.float32(peak)).astype(dtype)
    return samples


def _inks(pixels: NDArray[Any], old: Samples) -> Samples:
    """C, M and Y that print `pixels` over the old black.

    From R = (1 - C)(1 - K) with K kept: C' = C + (R - R') / (1 - K). Where black covers nearly all, the other
    inks hardly show, and dividing by so little would throw them about: the divisor stops at _LEAST_PAPER.
    """
    peak = np.float32(np.iinfo(old.dtype).max)
    paper = np.maximum(1 - old[..., 3:4].astype(np.float32) / peak, _LEAST_PAPER)
    inks = old[..., :3].astype(np.float32) / peak
    return _quantise(inks + (_pixels(old, "cmyk") - pixels) / paper, old.dtype)
