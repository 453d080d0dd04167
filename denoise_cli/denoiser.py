"""A trained network as a denoiser: pictures and a noise level in, pictures out."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from denoise_cli.errors import DenoiseError
from denoise_cli.nn.module import Module, Reach, ShapeError

Sigma = float | Tensor
"""A noise level on the 0-255 scale: one number, (N,) for one a picture, or (N, 1, H, W) for one a pixel."""


class Denoiser:
    """What turns pictures into the input of a network and its output into pictures.

    `channels`: 1 or 3, what the network was made for. `noise_level`: it sees one plane more, sigma / 255.
    `estimator`: which of the ESTIMATORS finds that sigma where nobody gives it.
    `meta`: what is known of it - name, experiment, step, scores; see `checkpoint`.
    """

    def __init__(
        self,
        net: Module,
        *,
        channels: int,
        noise_level: bool,
        estimator: str = "white",
        meta: dict[str, Any] | None = None,
    ) -> None:
        self.net, self.channels, self.noise_level = net, channels, noise_level
        self.estimator = estimator
        self.meta = meta or {}
        self.reach = net.reach(Reach())

    @property
    def device(self) -> torch.device:
        """Where the weights are, and where pictures go to be denoised."""
        tensors = self.net.state().values()
        return next((tensor.device for tensor in tensors), torch.device("cpu"))

    def inputs(self, x: Tensor, sigma: Sigma | None = None) -> Tensor:
        """What the network sees of pictures (N, C, H, W): themselves and, for noise_level, sigma / 255.

        Raises ValueError where the network needs a sigma and there is none.
        """
        if not self.noise_level:
            return x
        if sigma is None:
            raise ValueError("this model is told the noise level: give a sigma")
        N, _, H, W = x.shape
        plane = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) / 255
        if plane.dim() < 4:
            plane = plane.reshape(-1, 1, 1, 1)
        joined = torch.cat((x, plane.expand(N, 1, H, W)), dim=1)
        return joined.contiguous(memory_format=torch.channels_last)

    def predict(self, x: Tensor, sigma: Sigma | None = None) -> Tensor:
        """Denoised pictures (N, C, H, W) of noisy ones, neither clipped nor rounded; any height and width.

        C may differ from the network's: a gray picture becomes equal channels whose results are averaged, a
        network for gray pictures takes every channel by itself. Whether equal channels are a gray picture, a
        part of it cannot tell: whoever has the whole asks `windows.is_gray`, and gives one channel. Raises
        DenoiseError for a size that the network cannot take: reflection asks for more than one pixel.
        """
        channels = x.shape[1]
        if channels == self.channels:
            return self._predict(x, sigma)
        if channels == 1:
            return self._predict_gray(x, sigma)
        if self.channels == 1:
            return torch.cat([self._predict(x[:, c : c + 1], sigma) for c in range(channels)], dim=1)
        raise ValueError(f"pictures of {channels} channels for a model of {self.channels}")

    def _predict_gray(self, x: Tensor, sigma: Sigma | None) -> Tensor:
        """A gray picture by a network for n channels.

        Noise of one sigma in independent channels has it along the gray axis (1, ..., 1) / sqrt n too.
        Equal noise in all of them has sqrt n times as much there: that is what the network must be told.
        """
        if sigma is not None:
            sigma = torch.as_tensor(sigma, dtype=x.dtype, device=x.device) * math.sqrt(self.channels)
        return self._predict(x.expand(-1, self.channels, -1, -1), sigma).mean(dim=1, keepdim=True)

    def _predict(self, x: Tensor, sigma: Sigma | None) -> Tensor:
        H, W = x.shape[2:]
        x = self.inputs(x, sigma).contiguous(memory_format=torch.channels_last)
        x = pad_to_multiple(x, self.reach.period)
        with eval_mode(self.net):
            try:
                return self.net.forward(x)[..., :H, :W]
            except ShapeError as error:
                raise DenoiseError(f"the model cannot take a picture of {W} x {H} pixels: {error}") from error


@contextmanager
def eval_mode(net: Module) -> Iterator[None]:
    """Inside, `net` computes as after training; then it goes back to the mode it was in."""
    was_training = net.training
    if was_training:
        net.train(False)
    try:
        yield
    finally:
        if was_training:
            net.train()


def pad_to_multiple(x: Tensor, period: int) -> Tensor:
    """`x` (N, C, H, W) continued to the right and down until both sides are multiples of `period`.

    By reflection about the last pixel; where the picture is smaller than what is missing, by repeating it.
    """
    for dim in (2, 3):
        size = x.shape[dim]
        if missing := -size % period:
            places = torch.arange(size, size + missing, device=x.device)
            places = 2 * (size - 1) - places if missing < size else torch.full_like(places, size - 1)
            x = torch.cat((x, x.index_select(dim, places)), dim)
    return x
