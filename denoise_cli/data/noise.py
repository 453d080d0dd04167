"""The noise models by name."""

from denoise_cli.data.camera_noise import Camera
from denoise_cli.data.noise_models import (
    Correlated,
    Gaussian,
    Jpeg,
    Noise,
    Noisy,
    Poisson,
    PoissonGaussian,
    SaltPepper,
    Speckle,
    Subsample,
)
from denoise_cli.data.photo_noise import Photo

NOISES: dict[str, type[Noise]] = {
    "gaussian": Gaussian,
    "correlated": Correlated,
    "poisson": Poisson,
    "poisson_gaussian": PoissonGaussian,
    "speckle": Speckle,
    "salt_pepper": SaltPepper,
    "jpeg": Jpeg,
    "subsample": Subsample,
    "camera": Camera,
    "photo": Photo,
}

__all__ = ["NOISES", "Noise", "Noisy"]
