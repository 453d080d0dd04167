"""An image denoiser on a neural-network engine written from scratch.

from denoise_cli import denoise
clean = denoise(noisy)
"""

from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from pathlib import Path

    from denoise_cli.denoiser import Denoiser

T = TypeVar("T")


def denoise(
    image: T,
    sigma: float | None = None,
    strength: float = 1.0,
    model: "str | Path | Denoiser | None" = None,
    **settings: Any,
) -> T:
    """A picture with less noise, of the same kind as the one given.

    The same as `denoise image` does with a file.

    Args:
        image: a NumPy array, a torch tensor or a PIL image.

            - An array is (H, W), (H, W, 1) or (H, W, 3); of (C, H, W) only where the last side is not 1 or 3
              and the first is.
            - A tensor is (H, W), (1, H, W) or (3, H, W), or a batch (N, C, H, W) of them, each of which is
              measured by itself. It comes back on its own device.
            - Integers of 8 or 16 bits run over their whole range, and come back rounded. Floating numbers
              have black at 0 and white at 1, and come back of the same type, neither clipped nor rounded.
            - A PIL image is of mode L, LA, RGB or RGBA; alpha stays as it is.
        sigma: the standard deviation of the noise on the 0-255 scale; measured if not given.
        strength: 0 gives back the picture as it is, 1 the model's answer; up to 2 cleans more.
        model: a shipped model's name, a run folder, a model file, or a loaded `Denoiser`.
        settings: more of `denoising.Settings`: `luma`, `chroma`, `ensemble`, `tile`, `sigma_map`.

    Raises:
        UsageError: a picture, setting or model that makes no sense.
        DenoiseError: the model cannot be read, or memory is not enough.
    """
    from denoise_cli.library import denoise_any

    return denoise_any(image, model, sigma=sigma, strength=strength, **settings)
