"""The noise models by name."""

from denoise_cli.data.noise_models import Gaussian, Noise, Noisy

NOISES: dict[str, type[Noise]] = {
    "gaussian": Gaussian,
}

__all__ = ["NOISES", "Gaussian", "Noise", "Noisy"]
