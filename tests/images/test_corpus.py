"""Every combination of format, mode, depth, profile and orientation goes through `denoise image`."""

import io
import subprocess
import sys
import zlib
from itertools import product

import imagecodecs
import numpy as np
import pytest
import tifffile
from image_corpus import ICC, PILLOW_MODES, exif, noise, pillow, png_with, samples_of, tiff
from PIL import Image
from scipy.ndimage import uniform_filter
from skimage.data import astronaut

from denoise_cli.checkpoint import save_model
from denoise_cli.config import Experiment

COLORS = {"gray": 1, "rgb": 3, "cmyk": 4}
PHOTO = astronaut()
KINDS = [
    *product(["png"], ["gray", "rgb"], [False, True], [8, 16]),
    *product(["tiff"], ["gray", "rgb", "cmyk"], [False, True], [8, 16]),
    *product(["jpeg"], ["gray", "rgb", "cmyk"], [False], [8]),
    *product(["webp"], ["rgb"], [False, True], [8]),
    *product(["bmp"], ["gray", "rgb"], [False], [8]),
]
SIZES = [(2, 2), (2, 311), (3, 3), (40, 31), (257, 2)]
ALL = [
    (kind, orientation, profile, SIZES[number % len(SIZES)])
    for number, (kind, orientation, profile) in enumerate(product(KINDS, range(1, 9), [False, True]))
    if kind[0] != "bmp" or (orientation == 1 and not profile)
]


def profile_of(color):
    """A profile that says it is for these colours."""
    return ICC[:16] + {"gray": b"GRAY", "rgb": b"RGB ", "cmyk": b"CMYK"}[color] + ICC[20:]


def file_of(kind, orientation, profile, size):
    """A file of another library: a part of a photograph, a random alpha."""
    name, color, alpha, bits = kind
    part = PHOTO[60 : 60 + size[0], 150 : 150 + size[1]]
    colors = np.concatenate([part, part[..., :1] // 2], 2)[..., : COLORS[color]]
    colors = colors if bits == 8 else colors * np.uint16(257)
    samples = np.concatenate([colors, noise((*size, 1), bits)], 2) if alpha else colors
    icc, block = profile_of(color), exif(orientation)
    if name == "tiff":
        options = {"iccprofile": icc} if profile else {}
        return tiff(
            samples,
            photometric={"gray": "minisblack", "rgb": "rgb", "cmyk": "separated"}[color],
            planarconfig="contig" if samples.shape[2] > 1 else None,
            extrasamples=["unassalpha"] if alpha else None,
            extratags=[(274, "H", 1, orientation, True)],
            **options,
        )
    if name == "png" and bits == 16:
        blocks = [(b"eXIf", block.tobytes()[6:])]
        if profile:
            blocks.append((b"iCCP", b"profile\0\0" + zlib.compress(icc)))
        return png_with(imagecodecs.png_encode(samples if samples.shape[2] > 1 else samples[..., 0]), *blocks)
    options = {"icc_profile": icc} if profile else {}
    if name == "webp":
        options.update(lossless=True, exact=True)
    mode = PILLOW_MODES[color, "straight" if alpha else "none"]
    return pillow(samples, name.upper(), mode, exif=block.tobytes(), **options)


def profile_and_orientation(file):
    """What tifffile or Pillow finds."""
    if file[:2] == b"II":
        with tifffile.TiffFile(io.BytesIO(file)) as tags:
            found = tags.pages[0].tags
            return found[34675].value if 34675 in found else None, found[274].value
    with Image.open(io.BytesIO(file)) as image:
        return image.info.get("icc_profile"), image.getexif().get(274, 1)


def run(command, folder):
    """What a command tells on its way, when it ends well."""
    ended = subprocess.run(
        [sys.executable, "-m", "denoise_cli", *command.split()], cwd=folder, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stderr


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """All files, and what one command made of them with a model that blurs."""
    folder = tmp_path_factory.mktemp("corpus")
    conv = {"in_channels": 3, "out_channels": 3, "kernel_size": 3, "padding": 1, "groups": 3, "bias": False}
    conv["padding_mode"] = "reflect"
    experiment = Experiment.load({"model": [{"conv2d": conv}]})
    net = experiment.build_model()
    net.param()[0][0].fill_(1 / 9)
    save_model(folder / "blur.safetensors", net, experiment, {})
    (folder / "in").mkdir()
    for number, each in enumerate(ALL):
        (folder / "in" / f"{number:03}.{each[0][0]}").write_bytes(file_of(*each))
    told = run("image in out --model blur.safetensors --sigma 5 --jobs 2", folder)
    lines = [line for line in told.splitlines() if not line.endswith("noise 5.0, as given")]
    assert lines == [f"{len(ALL)} done"]  # nothing was lost
    return folder


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_the_contract_is_kept(folder, kind):
    name, color, alpha, _ = kind
    for number, each in enumerate(ALL):
        if each[0] != kind:
            continue
        before = (folder / "in" / f"{number:03}.{name}").read_bytes()
        after = (folder / "out" / f"{number:03}.{name}").read_bytes()
        assert before == file_of(*each), "an input was changed"
        assert profile_and_orientation(after) == profile_and_orientation(before), each
        assert profile_and_orientation(after) == (profile_of(color) if each[2] else None, each[1])
        old, new = samples_of(before), samples_of(after)
        assert (new.shape, new.dtype) == (old.shape, old.dtype)
        depth = COLORS[color]
        if alpha:
            np.testing.assert_array_equal(new[..., depth:], old[..., depth:])
        assert not np.array_equal(new, old) or each[3] == (2, 2)  # a JPEG may have but one colour there
        if color == "cmyk" or name == "jpeg":
            continue
        wanted = uniform_filter(old[..., :depth].astype(float), (3, 3, 1), mode="mirror")
        if alpha:
            wanted = np.where(old[..., depth:] == 0, old[..., :depth], wanted)
        np.testing.assert_allclose(
            new[1:-1, 1:-1, :depth], wanted[1:-1, 1:-1], atol=np.iinfo(old.dtype).max / 255
        )


def test_odd_sizes_go_through_the_usual_model(tmp_path):
    sizes = [(1, 1), (1, 5000), (5000, 1), (3, 3)]
    (tmp_path / "in").mkdir()
    for size in sizes:
        samples = noise((*size, 3))
        (tmp_path / "in" / f"{size[0]}x{size[1]}.png").write_bytes(pillow(samples, "PNG"))
    run("image in out", tmp_path)
    for size in sizes:
        name = f"{size[0]}x{size[1]}.png"
        assert samples_of((tmp_path / "out" / name).read_bytes()).shape == (*size, 3)


def test_a_large_odd_picture_goes_through(folder):
    samples = np.tile(PHOTO, (8, 6, 1))[:4001, :3001]
    (folder / "large.png").write_bytes(pillow(samples, "PNG", compress_level=1))
    run("image large.png denoised.png --model blur.safetensors --sigma 5", folder)
    blurred = uniform_filter(samples.astype(np.float32), (3, 3, 1), mode="mirror")
    after = samples_of((folder / "denoised.png").read_bytes())
    np.testing.assert_allclose(after[1:-1, 1:-1], blurred[1:-1, 1:-1], atol=2)  # the mean is kept locally
