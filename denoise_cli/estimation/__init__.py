"""How strong the noise of a picture is, from the picture alone.

`white` measures white noise by a published method; `level` tells noise of whatever kind, as it has learned.
"""

from collections.abc import Callable

from denoise_cli.estimation.blocks import Array
from denoise_cli.estimation.level import estimate_level
from denoise_cli.estimation.white import estimate_sigma, overall_sigma
from denoise_cli.windows import Source

ESTIMATORS: dict[str, Callable[[Source | Array], float]] = {
    "white": lambda picture: overall_sigma(estimate_sigma(picture)),
    "level": estimate_level,
}
"""What a model can be told where nobody knows the noise: one number on the 0-255 scale."""

__all__ = ["ESTIMATORS", "estimate_level", "estimate_sigma", "overall_sigma"]
