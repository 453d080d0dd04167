"""The one place where pictures become the input of a network."""

import pytest
import torch
from torch.nn.functional import pad

from denoise_cli.denoiser import Denoiser, pad_to_multiple
from denoise_cli.errors import DenoiseError
from denoise_cli.nn.layers.conv2d import Conv2d
from denoise_cli.nn.module import Module, Reach


class Spy(Module):
    """Returns the first `channels` planes of its input, which it remembers; wants multiples of `period`."""

    def __init__(self, channels=3, period=1):
        super().__init__()
        self.channels, self.period = channels, period

    def forward(self, x):
        self.seen, self.mode = x, self.training
        assert x.shape[2] % self.period == 0
        assert x.shape[3] % self.period == 0
        return x[:, : self.channels].clone()

    def reach(self, reach):
        return Reach(period=self.period)


def denoiser(channels=3, noise_level=False, period=1):
    return Denoiser(Spy(channels, period), channels=channels, noise_level=noise_level)


def test_noise_level_is_one_more_plane_of_sigma_over_255():
    d, x = denoiser(noise_level=True), torch.rand(2, 3, 4, 5)
    assert torch.equal(d.predict(x, 51.0), x)
    assert torch.equal(d.net.seen[:, 3], torch.full((2, 4, 5), 0.2))
    d.predict(x, torch.tensor([51.0, 102.0]))
    assert torch.equal(d.net.seen[:, 3], torch.tensor([0.2, 0.4]).reshape(2, 1, 1).expand(2, 4, 5))
    sigmas = torch.rand(2, 1, 4, 5) * 75
    d.predict(x, sigmas)
    assert torch.equal(d.net.seen[:, 3:], sigmas / 255)


def test_a_model_that_is_not_told_the_noise_level_sees_the_picture_alone():
    d, x = denoiser(), torch.rand(1, 3, 4, 4)
    assert torch.equal(d.predict(x, 25.0), d.predict(x))
    assert d.net.seen.shape == x.shape


def test_a_missing_sigma_is_told():
    with pytest.raises(ValueError, match="give a sigma"):
        denoiser(noise_level=True).predict(torch.rand(1, 3, 4, 4))


@pytest.mark.parametrize("size", [(8, 8), (9, 13), (5, 12), (1, 1), (2, 31)])
def test_any_size_comes_back_as_it_went(size):
    d, x = denoiser(period=8, noise_level=True), torch.rand(1, 3, *size)
    assert torch.equal(d.predict(x, 10), x)


def test_a_size_that_the_network_cannot_take_is_told():
    net = Conv2d(3, 3, 5, padding=2, padding_mode="reflect")
    small = Denoiser(net, channels=3, noise_level=False)
    assert small.predict(torch.rand(1, 3, 3, 3)).shape == (1, 3, 3, 3)
    with pytest.raises(DenoiseError, match="cannot take a picture of 9 x 2 pixels: cannot reflect 2"):
        small.predict(torch.rand(1, 3, 2, 9))


def test_the_padding_reflects():
    x = torch.rand(2, 3, 9, 14)
    assert torch.equal(pad_to_multiple(x, 8), pad(x, (0, 2, 0, 7), mode="reflect"))


def test_a_picture_smaller_than_its_padding_repeats_its_border():
    x = torch.rand(2, 3, 3, 8)
    assert torch.equal(pad_to_multiple(x, 8), pad(x, (0, 0, 0, 5), mode="replicate"))


def test_a_colour_model_takes_gray_pictures():
    d, x = denoiser(), torch.rand(1, 1, 4, 4)
    torch.testing.assert_close(d.predict(x), x)
    assert d.net.seen.shape == (1, 3, 4, 4)


def test_a_colour_model_is_told_of_the_noise_along_the_gray_axis():
    d = denoiser(noise_level=True)
    d.predict(torch.rand(1, 1, 4, 4), 20)
    assert float(d.net.seen[0, 3].mean()) == pytest.approx(20 * 3**0.5 / 255)


def test_a_gray_model_takes_every_channel_by_itself():
    d, x = denoiser(channels=1), torch.rand(1, 3, 4, 4)
    assert torch.equal(d.predict(x), x)
    assert d.net.seen.shape == (1, 1, 4, 4)


def test_other_channel_counts_are_refused():
    with pytest.raises(ValueError, match="2 channels"):
        denoiser().predict(torch.rand(1, 2, 4, 4))


def test_prediction_runs_in_eval_mode_and_leaves_the_mode_as_it_was():
    d = denoiser()
    d.predict(torch.rand(1, 3, 4, 4))
    assert d.net.mode is False
    assert d.net.training is True
    d.net.train(False)
    d.predict(torch.rand(1, 3, 4, 4))
    assert d.net.training is False
