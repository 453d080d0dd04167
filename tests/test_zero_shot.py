"""ZS-N2N against torch's autograd, and against the noise of a picture it has never seen."""

import numpy as np
import pytest
import torch
from skimage import data

from denoise_cli.denoising import Settings, denoise_pixels
from denoise_cli.errors import DenoiseError
from denoise_cli.metrics import psnr
from denoise_cli.windows import ArraySource
from denoise_cli.zero_shot import _network, add_gradients, learn, views, views_adjoint


def noisy_photo(sigma=25):
    clean = data.chelsea()[40:200, 100:280].astype(np.float32) / 255
    noise = np.random.RandomState(0).normal(0, sigma / 255, clean.shape)
    return clean, (clean + noise).astype(np.float32)


def oracle_loss(net, y):
    """The loss of the paper, written once more for autograd."""
    weights = [value for value, _ in net.param()]
    f = torch.nn.functional

    def predict(x):
        h = f.leaky_relu(f.conv2d(x, weights[0], weights[1], padding=1), 0.2)
        h = f.leaky_relu(f.conv2d(h, weights[2], weights[3], padding=1), 0.2)
        return x + f.conv2d(h, weights[4], weights[5])

    def view(x, kernel):
        channels = x.shape[1]
        kernel = torch.tensor(kernel, dtype=x.dtype).expand(channels, 1, 2, 2)
        return f.conv2d(x, kernel, stride=2, groups=channels)

    d1, d2 = (lambda x: view(x, [[0, 0.5], [0.5, 0]])), (lambda x: view(x, [[0.5, 0], [0, 0.5]]))
    p1, p2, q = predict(d1(y)), predict(d2(y)), predict(y)
    pairs = ((p1, d2(y)), (p2, d1(y)), (p1, d1(q)), (p2, d2(q)))
    return sum(f.mse_loss(a, b) for a, b in pairs)


def test_gradients_equal_autograd():
    net = _network(channels=3, seed=0).to(dtype=torch.float64)
    y = torch.rand(1, 3, 12, 16, dtype=torch.float64)
    loss = add_gradients(net, y)
    for value, _ in net.param():
        value.requires_grad_(True)
    expected = oracle_loss(net, y)
    expected.backward()
    assert loss == pytest.approx(expected.item(), rel=1e-12)
    for value, grad in net.param():
        torch.testing.assert_close(grad, value.grad, rtol=1e-9, atol=1e-12)


def test_the_adjoint_of_taking_views():
    y, a, b = torch.rand(2, 3, 6, 4), torch.rand(2, 3, 3, 2), torch.rand(2, 3, 3, 2)
    d1, d2 = views(y)
    assert ((d1 * a).sum() + (d2 * b).sum()).item() == pytest.approx(
        (y * views_adjoint(a, b)).sum().item(), 1e-5
    )


def test_it_has_22_thousand_weights():
    assert sum(value.numel() for value, _ in _network(3, 0).param()) == pytest.approx(22_000, rel=0.25)


def test_it_takes_most_of_the_noise_out():
    clean, noisy = noisy_photo()
    denoiser = learn(ArraySource(noisy), steps=150)
    assert psnr(denoise_pixels(denoiser, noisy, Settings(sigma=0)), clean) > psnr(noisy, clean) + 5


def test_the_seed_decides_everything():
    _, noisy = noisy_photo()
    first, same, other = (
        learn(ArraySource(noisy), seed=seed, steps=3).net.state()["0.body.0.weight"] for seed in (1, 1, 2)
    )
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


def test_it_leaves_the_random_state_alone():
    _, noisy = noisy_photo()
    torch.manual_seed(0)
    before = torch.random.get_rng_state()
    learn(ArraySource(noisy), steps=1)
    assert torch.equal(torch.random.get_rng_state(), before)


@pytest.mark.parametrize("shape", [(4, 5, 1), (5, 300, 3), (97, 99, 1)])
def test_small_odd_and_gray_pictures(shape):
    calls = []
    x = np.random.default_rng(0).random(shape, dtype=np.float32)
    denoiser = learn(ArraySource(x), steps=2, progress=lambda *done: calls.append(done))
    assert denoise_pixels(denoiser, x).shape == shape
    assert calls == [(1, 2), (2, 2)]


def test_a_picture_without_views_is_refused():
    with pytest.raises(DenoiseError, match="5 x 3 pixels"):
        learn(ArraySource(np.zeros((3, 5, 1), np.uint8)))
