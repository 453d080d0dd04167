"""Denoising with untrained networks: what tiles, strengths and settings do does not depend on training."""

from fractions import Fraction

import numpy as np
import pytest
import torch
from scipy.ndimage import uniform_filter

from denoise_cli.denoiser import Denoiser
from denoise_cli.denoising import Noise, Settings, denoise_picture, denoise_pixels, measure_noise
from denoise_cli.errors import DenoiseError, UsageError
from denoise_cli.estimation import estimate_level
from denoise_cli.images.picture import Picture
from denoise_cli.nn import build
from denoise_cli.nn.module import Module
from denoise_cli.tiling import Box, Overlap
from denoise_cli.windows import ArraySource


def conv(i, o, k=3, **more):
    return {"conv2d": {"in_channels": i, "out_channels": o, "kernel_size": k, "padding": k // 2, **more}}


def down(i, o):
    return {"conv2d": {"in_channels": i, "out_channels": o, "kernel_size": 2, "stride": 2}}


def up(i, o):
    return {"transpose_conv2d": {"in_channels": i, "out_channels": o, "kernel_size": 2, "stride": 2}}


def unet(planes, channels):
    bottom = {"residual": {"body": [down(8, 12), conv(12, 12), "relu", up(12, 8)]}}
    middle = {"concat": {"body": [down(6, 8), conv(8, 8), "elu", bottom, conv(8, 8), up(8, 6)]}}
    return [
        {"pixel_unshuffle": {"downscale_factor": 2}},
        *(conv(4 * planes, 6), "leaky_relu", middle, conv(12, 4 * channels)),
        {"pixel_shuffle": {"upscale_factor": 2}},
    ]


NETS = {
    "plain": lambda p, c: [conv(p, 5), "relu", conv(5, c, 5)],
    "one by one": lambda p, c: [conv(p, c, 1)],
    "reflect": lambda p, c: [conv(p, 5, padding_mode="reflect"), "relu", conv(5, c, padding_mode="reflect")],
    "unet": unet,
    "shuffle alone": lambda p, c: [
        {"pixel_unshuffle": {"downscale_factor": 4}},
        conv(16 * p, 16 * c, 1),
        {"pixel_shuffle": {"upscale_factor": 4}},
    ],
}


def denoiser(name="unet", *, channels=3, noise_level=True, seed=0):
    torch.manual_seed(seed)
    net = build(NETS[name](channels + noise_level, channels))
    return Denoiser(net, channels=channels, noise_level=noise_level)


def picture(height=93, width=75, channels=3, seed=0):
    return np.random.default_rng(seed).random((height, width, channels), dtype=np.float32)


def taken(change):
    """What is left of a change (H, W, C) when every square of 65 pixels keeps its mean."""
    size, inside = (65, 65, 1), np.ones_like(change)
    sums = (uniform_filter(each.astype(np.float64), size, mode="constant") for each in (change, inside))
    return change - next(sums) / next(sums)


class Halving(Module):
    """x / 2: a denoiser whose every answer is known."""

    def forward(self, x):
        return x[:, :3] / 2


class NoiseLevel(Module):
    """Adds or takes away the noise level it was told, in turns from pixel to pixel."""

    def forward(self, x):
        y = x[:, :3].clone()
        y[..., ::2] -= x[:, 3:, :, ::2]
        y[..., 1::2] += x[:, 3:, :, 1::2]
        return y

    def reach(self, reach):
        return reach.then(margin=0, stride=2).then(stride=Fraction(1, 2))


def stripes(x, height):
    """The change that NoiseLevel makes."""
    return height * np.where(np.arange(x.shape[1]) % 2, 1, -1)[None, :, None].repeat(x.shape[0], 0).repeat(
        3, 2
    )


BLIND = Denoiser(Halving(), channels=3, noise_level=False)
TOLD = Denoiser(NoiseLevel(), channels=3, noise_level=True)


# Tiles


@pytest.mark.parametrize("ensemble", [False, True])
@pytest.mark.parametrize("noise_level", [False, True])
@pytest.mark.parametrize("name", NETS)
def test_tiled_equals_whole(name, noise_level, ensemble):
    model, x = denoiser(name, noise_level=noise_level), picture()
    whole, tiled = (
        denoise_pixels(model, x, Settings(sigma=25, tile=tile, ensemble=ensemble)) for tile in ("off", 24)
    )
    assert np.abs(whole - x).max() > 0.1
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 200), (200, 1), (3, 3), (8, 64), (65, 31)])
@pytest.mark.parametrize("tile", [1, 16, 50])
def test_tiled_equals_whole_for_any_size(size, tile):
    model, x = denoiser(), picture(*size)
    whole = denoise_pixels(model, x, Settings(sigma=25, tile="off"))
    np.testing.assert_allclose(
        denoise_pixels(model, x, Settings(sigma=25, tile=tile)), whole, rtol=0, atol=1e-5
    )


def test_a_second_pass_is_tiled_as_exactly():
    model, x = denoiser(noise_level=False), picture()
    whole, tiled = (denoise_pixels(model, x, Settings(strength=1.7, tile=tile)) for tile in ("off", 24))
    np.testing.assert_allclose(tiled, whole, rtol=0, atol=1e-5)


def test_less_overlap_would_show():
    """The proof that the test above can fail: the margin is needed."""
    model, x = denoiser("plain"), picture()
    whole = denoise_pixels(model, x, Settings(sigma=25, tile="off"))
    model.reach = type(model.reach)(margin=2, period=1)
    assert np.abs(denoise_pixels(model, x, Settings(sigma=25, tile=24)) - whole).max() > 1e-3


def test_auto_takes_small_pictures_whole_and_cuts_large_ones(monkeypatch):
    model, x = denoiser("plain"), picture(120, 160)
    calls = []
    denoise_pixels(model, x, Settings(sigma=5), progress=lambda done, total: calls.append((done, total)))
    assert calls == [(120 * 160, 120 * 160)]
    monkeypatch.setattr("denoise_cli.denoising.free_memory", lambda device: 2 * 4 * (4 * 5 + 6 * 3) * 3000)
    calls.clear()
    tiled = denoise_pixels(
        model, x, Settings(sigma=5), progress=lambda done, total: calls.append((done, total))
    )
    assert len(calls) > 4
    assert calls[-1] == (120 * 160, 120 * 160)
    np.testing.assert_allclose(
        tiled, denoise_pixels(model, x, Settings(sigma=5, tile="off")), rtol=0, atol=1e-5
    )


@pytest.mark.parametrize(("margin", "period", "area"), [(0, 1, 10_000), (17, 8, 40_000), (100, 16, 1)])
@pytest.mark.parametrize("size", [(3000, 4000), (50, 90_000), (7, 5)])
def test_tiles_cover_a_picture_once_and_keep_to_the_area(margin, period, area, size):
    overlap, whole = Overlap(-(-max(margin, 1) // period) * period, period), Box(0, size[0], 0, size[1])
    height, width = overlap.shape_for(whole, area)
    assert height % period == width % period == 0
    boxes = list(overlap.cut(whole, height, width))
    assert sum(box.height * box.width for box in boxes) == size[0] * size[1]
    reads = [overlap.around(box, whole) for box in boxes]
    assert max(read.height * read.width for read in reads) <= max(area, 9 * overlap.margin**2)
    assert all(read.y0 % period == read.x0 % period == 0 for read in reads)


class Global(Module):
    """A network that looks at the whole picture."""

    def forward(self, x):
        return x * x.amax(dim=(2, 3), keepdim=True)

    def reach(self, reach):
        return reach.then(margin=float("inf"))


def test_a_global_network_takes_the_picture_whole_or_says_so():
    model, x = Denoiser(Global(), channels=3, noise_level=False), picture()
    np.testing.assert_allclose(denoise_pixels(model, x), x + taken(x * x.max((0, 1)) - x), atol=1e-5)
    with pytest.raises(UsageError, match="--tile off"):
        denoise_pixels(model, x, Settings(tile=32))


class Small(Module):
    """A network whose memory ends at a number of pixels."""

    def __init__(self, most, error):
        super().__init__()
        self.most, self.error = most, error

    def forward(self, x):
        if x[0, 0].numel() > self.most:
            raise self.error
        return x / 2

    def reach(self, reach):
        return reach.then(margin=4)


OUT_OF_MEMORY = [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")]


@pytest.mark.parametrize("error", [*OUT_OF_MEMORY, torch.OutOfMemoryError("CUDA out of memory")])
def test_a_tile_too_large_for_memory_is_cut_smaller(error):
    x = picture(193, 175)
    y = denoise_pixels(Denoiser(Small(11_000, error), channels=3, noise_level=False), x, Settings(tile=64))
    np.testing.assert_allclose(y, x + taken(-x / 2), atol=1e-5)


@pytest.mark.parametrize("error", OUT_OF_MEMORY)
@pytest.mark.parametrize("tile", ["off", 64])
def test_too_little_memory_for_the_smallest_tile_fails_in_words(error, tile):
    model = Denoiser(Small(10, error), channels=3, noise_level=False)
    with pytest.raises(DenoiseError, match="not enough memory"):
        denoise_pixels(model, picture(), Settings(tile=tile))


def test_other_errors_are_not_taken_for_a_lack_of_memory():
    model = Denoiser(Small(10, RuntimeError("a bug")), channels=3, noise_level=False)
    with pytest.raises(RuntimeError, match="a bug"):
        denoise_pixels(model, picture())


# Strength


def test_strength_goes_from_the_picture_to_the_answer():
    x = picture()
    for strength in (0.25, 0.5, 1):
        y = denoise_pixels(BLIND, x, Settings(sigma=5, strength=strength))
        np.testing.assert_allclose(y, x + taken(-strength / 2 * x), atol=1e-6)


def test_strength_0_gives_the_input_bit_for_bit():
    samples = (picture() * 255).astype(np.uint8)
    page = Picture(samples, "rgb")
    assert denoise_picture(BLIND, page, Settings(strength=0)) is page
    assert np.array_equal(denoise_pixels(BLIND, picture(), Settings(luma=0, chroma=0)), picture())


def test_strength_above_1_tells_the_network_of_more_noise():
    x = picture()
    y = denoise_pixels(TOLD, x, Settings(sigma=51, strength=1.5))
    np.testing.assert_allclose(y, x + taken(stripes(x, (1.5 * 51 + 5) / 255)), atol=1e-6)


def test_strength_above_1_cleans_the_answer_again_where_there_is_no_noise_level():
    x = picture()
    y = denoise_pixels(BLIND, x, Settings(strength=1.5))
    np.testing.assert_allclose(y, x + taken(x * (0.5 - 0.5 * 0.25 - 1)), atol=1e-6)


@pytest.mark.parametrize("name", ["luma", "chroma"])
def test_luma_and_chroma_are_taken_apart_and_add_up(name):
    x = picture()
    y = denoise_pixels(BLIND, x, Settings(strength=0, **{name: 1}))
    gray = taken(x).mean(axis=2, keepdims=True)
    expected = x - gray / 2 if name == "luma" else x - (taken(x) - gray) / 2
    np.testing.assert_allclose(y, expected, atol=1e-6)
    both = denoise_pixels(BLIND, x, Settings(luma=1, chroma=1 - 1e-9))
    np.testing.assert_allclose(both, x - taken(x) / 2, atol=1e-6)


def test_sigma_map_scales_the_noise_level_from_place_to_place():
    x, scale = picture(), np.zeros((93, 75, 1), np.uint8)
    scale[:40], scale[40:50] = 255, 51
    y = denoise_pixels(TOLD, x, Settings(sigma=51, sigma_map=ArraySource(scale), tile=32))
    local = np.repeat([0.2, 0.04, 0], [40, 10, 43])[:, None, None]
    expected = x + taken(stripes(x, 1) * local) * (local > 0)
    np.testing.assert_allclose(y, expected, atol=1e-6)
    assert np.array_equal(y[50:], x[50:])
    blind = denoise_pixels(BLIND, x, Settings(sigma_map=ArraySource(scale)))
    np.testing.assert_allclose(blind, x - taken(x) * local * 2.5, atol=1e-6)


def test_a_sigma_map_of_another_size_is_refused():
    with pytest.raises(UsageError, match="5 x 4 pixels, the picture 75 x 93"):
        denoise_pixels(BLIND, picture(), Settings(sigma_map=ArraySource(np.zeros((4, 5, 1)))))


def test_ensemble_is_the_mean_over_flips_and_turns():
    model, x = denoiser("plain"), picture(64, 48)
    expected = np.zeros_like(x)
    for turns in range(4):
        for mirrored in (False, True):
            turned = np.rot90(x, turns)
            turned = np.ascontiguousarray(turned[:, ::-1] if mirrored else turned)
            y = denoise_pixels(model, turned, Settings(sigma=25))
            expected += np.rot90(y[:, ::-1] if mirrored else y, -turns) / 8
    np.testing.assert_allclose(
        denoise_pixels(model, x, Settings(sigma=25, ensemble=True)), expected, rtol=0, atol=1e-5
    )


def test_brightness_and_colour_do_not_shift():
    """Not even by a model that darkens everything, and nowhere in the picture."""
    x = picture(300, 300) * np.linspace(0.2, 1, 300, dtype=np.float32)[:, None, None]
    y = denoise_pixels(BLIND, x)
    assert np.abs((y - x).mean((0, 1))).max() < 0.1 / 255
    for part in (slice(0, 130), slice(100, 200), slice(170, 300)):
        assert np.abs((y - x)[part, part].mean((0, 1))).max() < 1 / 255


def test_the_bare_answer_of_the_network():
    x = picture()
    np.testing.assert_allclose(denoise_pixels(BLIND, x, Settings(keep_mean=False)), x / 2, atol=1e-6)


# Pictures and noise


def test_pictures_and_arrays_of_samples_agree():
    samples = (picture() * 255).astype(np.uint8)
    from_picture = denoise_picture(denoiser(), Picture(samples, "rgb"))
    from_array = denoise_pixels(denoiser(), samples)
    assert np.array_equal(from_picture.samples, np.rint(np.clip(from_array, 0, 1) * np.float32(255)))


@pytest.mark.parametrize("tile", [8, 24, "auto", "off"])
@pytest.mark.parametrize("alpha", ["none", "straight"])
def test_in_place_gives_the_same_in_the_memory_of_the_picture(tile, alpha):
    channels = 4 if alpha == "straight" else 3
    samples = np.random.default_rng(0).integers(0, 2**16, (150, 90, channels), np.uint16)
    samples[..., 3:][::2] = 0
    given, settings = Picture(samples, "rgb", alpha), Settings(sigma=25, tile=tile)
    wanted = denoise_picture(denoiser(), given, settings)
    assert not np.shares_memory(wanted.samples, samples)
    in_place = denoise_picture(denoiser(), given, settings, in_place=True)
    assert np.shares_memory(in_place.samples, samples)
    np.testing.assert_array_equal(in_place.samples, wanted.samples)


def test_a_picture_that_may_not_be_written_is_left_alone():
    samples = np.full((40, 40, 3), 100, np.uint8)
    samples[20:] = 120
    samples.flags.writeable = False
    result = denoise_picture(BLIND, Picture(samples, "rgb"), in_place=True)
    assert not np.shares_memory(result.samples, samples)


def test_gray_pictures_through_a_colour_network():
    x = picture(channels=1)
    np.testing.assert_allclose(denoise_pixels(BLIND, x), x - taken(x) / 2, atol=1e-6)


def test_equal_channels_are_a_gray_picture():
    gray = picture(50, 40, channels=1)
    settings = Settings(sigma=20, tile=16)
    expected = denoise_pixels(denoiser(), gray, settings)
    result = denoise_pixels(denoiser(), np.repeat(gray, 3, axis=2), settings)
    np.testing.assert_allclose(result, np.repeat(expected, 3, axis=2), atol=1e-6)


def test_a_gray_part_of_a_colour_picture_shows_no_seam():
    mixed = np.repeat(picture(60, 200, channels=1), 3, axis=2)
    mixed[:, 190:] = picture(60, 10)
    results = [
        denoise_pixels(denoiser(), mixed, Settings(sigma=25, tile=tile, keep_mean=False))
        for tile in (32, "off")
    ]
    np.testing.assert_allclose(*results, atol=1e-5)


def test_the_given_sigma_overrules_the_estimate():
    noisy = np.random.default_rng(0).normal(0.5, 0.04, (200, 200, 3))
    assert measure_noise(TOLD, ArraySource(noisy), Settings(sigma=12)) == Noise(12)
    measured = measure_noise(TOLD, ArraySource(noisy), Settings())
    assert measured.channels == pytest.approx([10.2] * 3, rel=0.1)
    assert measured.sigma == measured.white == pytest.approx(10.2, rel=0.05)


def test_a_model_is_told_what_its_own_estimator_finds():
    smooth = uniform_filter(picture(256, 256), (3, 3, 1))
    any_noise = Denoiser(NoiseLevel(), channels=3, noise_level=True, estimator="level")
    measured = measure_noise(any_noise, ArraySource(smooth), Settings())
    assert measured.sigma == estimate_level(smooth) != measured.white
    told = denoise_pixels(any_noise, smooth, Settings(sigma=measured.sigma))
    np.testing.assert_array_equal(denoise_pixels(any_noise, smooth), told)


def test_weights_in_bfloat16_compute_in_bfloat16():
    exact, model, x = denoiser(), denoiser(), picture()
    model.net.to(dtype=torch.bfloat16)
    y = denoise_pixels(model, x, Settings(sigma=25))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, denoise_pixels(exact, x, Settings(sigma=25)), atol=0.05)


@pytest.mark.parametrize(
    "wrong", [{"strength": 2.1}, {"strength": -1}, {"luma": 3}, {"sigma": -1}, {"sigma": 300}, {"tile": 0}]
)
def test_values_out_of_range_are_refused_by_name(wrong):
    with pytest.raises(UsageError, match=next(iter(wrong))):
        Settings(**wrong)
