"""A picture's samples and pixels: what a denoiser may change and what it may not."""

import tracemalloc

import numpy as np
import pytest
import torch
from image_corpus import noise

from denoise_cli.errors import DenoiseError
from denoise_cli.images import Picture, in_channels, read_picture, to_pixels, to_tensor, write_picture


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize(("color", "samples"), [("gray", 1), ("rgb", 3), ("cmyk", 4)])
def test_every_value_survives_the_way_to_pixels_and_back(bits, color, samples):
    every = np.arange(2**bits, dtype=f"u{bits // 8}").reshape(2 ** (bits // 2), -1, 1)
    picture = Picture(np.concatenate([np.roll(every, 37 * c) for c in range(samples)], axis=2), color)
    same = picture.replace_pixels(picture.pixels)
    np.testing.assert_array_equal(same.samples, picture.samples)


def test_pixels_are_samples_over_the_peak():
    picture = Picture(np.array([[[0, 51, 255]]], np.uint8), "rgb")
    np.testing.assert_allclose(picture.pixels, [[[0, 0.2, 1]]], rtol=1e-6)
    assert picture.pixels.dtype == np.float32
    assert (picture.height, picture.width, picture.channels, picture.bits) == (1, 1, 3, 8)


def test_new_values_are_rounded_and_clipped():
    picture = Picture(noise((1, 4, 1)), "gray")
    pixels = np.array([-0.5, 0.4 / 255, 0.6 / 255, 7.0]).reshape(1, 4, 1)
    np.testing.assert_array_equal(picture.replace_pixels(pixels).samples.ravel(), [0, 0, 1, 255])


def test_windows_make_the_whole():
    picture = Picture(noise((23, 17, 4)), "rgb", "straight")
    result = picture.empty_result()
    for y in range(0, 23, 9):
        for x in range(0, 17, 5):
            y1, x1 = min(y + 9, 23), min(x + 5, 17)
            result[y:y1, x:x1] = picture.window(y, y1, x, x1) * 0.5
    whole = picture.replace_pixels(picture.pixels * 0.5)
    np.testing.assert_array_equal(result.picture().samples, whole.samples)


def test_alpha_more_channels_and_invisible_colours_are_untouched():
    samples = noise((9, 8, 6), 16)
    samples[2:5, 2:5, 3] = 0
    picture = Picture(samples, "rgb", "straight")
    changed = picture.replace_pixels(1 - picture.pixels)
    np.testing.assert_array_equal(changed.samples[..., 3:], samples[..., 3:])
    np.testing.assert_array_equal(changed.samples[2:5, 2:5], samples[2:5, 2:5])
    visible = samples[..., 3] > 0
    np.testing.assert_array_equal(changed.samples[visible][:, :3], 65535 - samples[visible][:, :3])


def test_premultiplied_colours_stay_under_their_alpha():
    samples = np.array([[[10, 20, 30, 40], [50, 50, 50, 200]]], np.uint8)
    picture = Picture(samples, "rgb", "premultiplied")
    bright = picture.replace_pixels(np.ones((1, 2, 3)))
    np.testing.assert_array_equal(bright.samples, [[[40, 40, 40, 40], [200, 200, 200, 200]]])


def test_cmyk_shows_what_it_prints_and_keeps_its_black():
    samples = np.array([[[255, 0, 0, 0], [0, 0, 0, 255], [0, 0, 0, 51]]], np.uint8)
    picture = Picture(samples, "cmyk")
    np.testing.assert_allclose(picture.pixels, [[[0, 1, 1], [0, 0, 0], [0.8, 0.8, 0.8]]], atol=1e-6)
    wanted = np.array([[[0.2, 0.9, 0.9], [0, 0, 0], [0.7, 0.6, 0.5]]], np.float32)
    changed = picture.replace_pixels(wanted)
    np.testing.assert_array_equal(changed.samples[..., 3], samples[..., 3])
    np.testing.assert_allclose(changed.pixels, wanted, atol=2 / 255)


def test_values_that_are_not_numbers_are_refused():
    picture = Picture(noise((3, 3, 1)), "gray")
    with pytest.raises(DenoiseError, match="not numbers"):
        picture.replace_pixels(np.full((3, 3, 1), np.nan))


@pytest.mark.parametrize("shape", [(3, 3), (3, 3, 3), (2, 3, 1)])
def test_pixels_of_another_shape_are_refused(shape):
    with pytest.raises(ValueError, match="shape"):
        Picture(noise((3, 3, 1)), "gray").replace_pixels(np.zeros(shape))


@pytest.mark.parametrize("samples", [noise((3, 3)), noise((3, 3, 1)).astype(float), noise((3, 3, 2))])
def test_samples_that_are_no_picture_are_refused(samples):
    with pytest.raises(ValueError, match="samples"):
        Picture(samples, "rgb")


def test_a_picture_from_pixels():
    pixels = np.linspace(0, 1, 12, dtype=np.float32).reshape(2, 2, 3)
    assert Picture.from_pixels(pixels).samples.dtype == np.uint8
    picture = Picture.from_pixels(pixels, bits=16)
    np.testing.assert_allclose(picture.pixels, pixels, atol=1e-5)
    with pytest.raises(ValueError, match="pixels must be"):
        Picture.from_pixels(np.zeros((2, 2, 2)))


def test_tensors_share_memory_and_are_channels_last():
    pixels = np.random.default_rng(0).random((4, 5, 3), np.float32)
    tensor = to_tensor(pixels)
    assert tensor.shape == (3, 4, 5)
    assert tensor[None].is_contiguous(memory_format=torch.channels_last)
    np.testing.assert_array_equal(to_pixels(tensor), pixels)


def test_a_file_is_read_into_its_own_size_of_memory(tmp_path):
    file = tmp_path / "large.png"
    file.write_bytes(b"\x89PNG\r\n\x1a\n" + bytes(4 * 2**20))
    tracemalloc.start()
    with pytest.raises(DenoiseError, match="damaged"):
        read_picture(file)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1.5 * file.stat().st_size


def test_pixels_for_training_have_the_channels_asked_for(tmp_path):
    write_picture(Picture(np.array([[[255, 0, 0], [0, 255, 0]]], np.uint8), "rgb"), tmp_path / "c.png")
    write_picture(Picture(np.array([[[51]]], np.uint8), "gray"), tmp_path / "g.png")
    colour, gray = (read_picture(tmp_path / name).pixels for name in ("c.png", "g.png"))
    assert in_channels(colour, 3).shape == (1, 2, 3)
    np.testing.assert_allclose(in_channels(colour, 1).ravel(), [0.299, 0.587], rtol=1e-6)
    np.testing.assert_allclose(in_channels(gray, 3), np.full((1, 1, 3), 0.2), rtol=1e-6)
