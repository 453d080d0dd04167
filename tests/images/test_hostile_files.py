"""Whatever a file holds, reading it ends in a picture or in one line that names it."""

import io
import logging
import os
import random
import struct
import subprocess
import sys
import zlib
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from image_corpus import every_kind, exif, noise, pillow, png_block, png_with, samples_of, smooth, tiff
from PIL import Image

from denoise_cli.checkpoint import save_model
from denoise_cli.config import Experiment
from denoise_cli.errors import DenoiseError
from denoise_cli.images import FORMATS, MAX_PIXELS, encode_pages, read_pages, read_picture
from denoise_cli.images.exif import Block, block, directories, parse, parsed

ROOT = Path(__file__).parent.parent.parent
KINDS = every_kind()


def refused(source, match="."):
    """The message of the refusal: one line."""
    with pytest.raises(DenoiseError, match=match) as caught:
        read_pages(source)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400
    return str(caught.value)


def mutated(file, rng):
    """The file with bits flipped, bytes replaced, cut out or put in, or its end cut off."""
    data = bytearray(file)
    place = rng.randrange(len(data))
    match rng.randrange(6):
        case 0:
            return bytes(data[:place])
        case 1:
            for _ in range(rng.choice((1, 3, 20))):
                data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
        case 2:
            data[rng.randrange(min(len(data), 300))] = rng.choice((0, 1, 127, 128, 255))
        case 3:
            start = rng.randrange(min(len(data), 300))
            data[start : start + 4] = rng.choice((b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4), b"\0\xf0\0\0"))
        case 4:
            del data[place : place + rng.randrange(1, 40)]
        case 5:
            data[place:place] = rng.randbytes(rng.randrange(1, 100))
    return with_checksums(data) if rng.random() < 0.7 else bytes(data)


def with_checksums(data):
    """A PNG whose blocks have right checksums again, so that the damage reaches the decoder."""
    place = 8
    while data[:4] == b"\x89PNG" and place + 12 <= len(data):
        end = place + 12 + struct.unpack_from(">I", data, place)[0]
        if end > len(data):
            break
        data[end - 4 : end] = struct.pack(">I", zlib.crc32(bytes(data[place + 4 : end - 4])))
        place = end
    return bytes(data)


@pytest.mark.parametrize("kind", KINDS)
def test_mutations_end_in_a_picture_or_one_line(kind, caplog, capfd):
    # 2,000 in all here; `DENOISE_MUTATIONS=1000` in the environment makes it 20,000.
    rng = random.Random(kind)
    for _ in range(int(os.environ.get("DENOISE_MUTATIONS", "100"))):
        with suppress(DenoiseError):
            pages = read_pages(mutated(KINDS[kind], rng))
            for name in (rng.choice([*FORMATS]), pages[0].keep.format):
                encode_pages([page.replace_pixels(1 - page.pixels) for page in pages], name)
    assert caplog.records == []
    assert capfd.readouterr() == ("", "")


@pytest.mark.filterwarnings("ignore::UserWarning")  # by Pillow, of EXIF that was damaged before
def test_a_batch_of_mutations_ends_in_whole_pictures_and_one_line_each(tmp_path):
    rng = random.Random(0)
    conv = {"in_channels": 3, "out_channels": 3, "kernel_size": 1}
    experiment = Experiment.load({"model": [{"conv2d": conv}]})
    save_model(tmp_path / "tiny.safetensors", experiment.build_model(), experiment, {})
    files = {f"{kind}-{n}": mutated(KINDS[kind], rng) for kind in KINDS for n in range(20)}
    inputs = {tmp_path / "in" / f"{name}.{name.split('-')[0]}": data for name, data in files.items()}
    (tmp_path / "in").mkdir()
    for path, data in inputs.items():
        path.write_bytes(data)
    arguments = ["image", "in", "out", "--model", "tiny.safetensors", "--sigma", "5", "--jobs", "2"]
    code = f"from denoise_cli.cli.app import app; app({arguments})"
    peak = "atexit.register(lambda: print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0]))"
    ended = subprocess.run(
        [sys.executable, "-c", f"import atexit; {peak}; {code}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    lines = ended.stderr.splitlines()
    assert ended.returncode == 1
    failed = sum(line.startswith("failed: in/") for line in lines)
    outputs = list((tmp_path / "out").iterdir())
    assert failed + len(outputs) == len(inputs)
    assert 0 < failed < len(inputs)
    assert lines[-failed - 1].startswith(f"{len(outputs)} done, {failed} failed:")
    assert "Traceback" not in "".join(lines)
    assert int(ended.stdout) < 2**20  # kilobytes
    assert {path: path.read_bytes() for path in inputs} == inputs
    for path in outputs:
        assert path.name in {each.name for each in inputs}  # no temporary file is left
        assert samples_of(path.read_bytes()).size


@pytest.mark.parametrize("kind", KINDS)
def test_a_truncated_file_is_never_half_a_picture(kind):
    file = KINDS[kind]
    whole = read_pages(file)
    for length in [*range(13), *np.linspace(13, len(file) - 1, 25).astype(int)]:
        try:
            pages = read_pages(file[:length])
        except DenoiseError:
            continue
        for page, wanted in zip(pages, whole, strict=True):  # only what comes after the pixels was lost
            np.testing.assert_array_equal(page.samples, wanted.samples)


def header_of_png(width, height, depth=8, color=2):
    head = png_block(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))
    return (
        b"\x89PNG\r\n\x1a\n" + head + png_block(b"IDAT", zlib.compress(bytes(1000))) + png_block(b"IEND", b"")
    )


def header_of_bmp(width, height):
    return (
        b"BM"
        + struct.pack("<IHHIIiiHHIIiiII", 1000, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(999)
    )


def tiff_of_size(width, height):
    file = bytearray(tiff(smooth(), photometric="rgb", compression="zlib"))
    for entry in range(struct.unpack_from("<H", file, 8)[0]):
        place = 10 + 12 * entry
        tag = struct.unpack_from("<H", file, place)[0]
        if tag in (256, 257):
            struct.pack_into("<H", file, place + 2, 4)
            struct.pack_into("<I", file, place + 8, width if tag == 256 else height)
    return bytes(file)


def jpeg_of_size(width, height):
    file = bytearray(pillow(smooth(), "JPEG"))
    frame = file.index(b"\xff\xc0")
    file[frame + 5 : frame + 9] = struct.pack(">HH", height, width)
    return bytes(file)


@pytest.mark.parametrize(("make", "width", "height"), [
    (header_of_png, 2**31 - 1, 2**31 - 1), (header_of_png, 30_000, 30_000), (header_of_png, 20_000, 20_000),
    (header_of_bmp, 2**31 - 1, 2**31 - 1), (header_of_bmp, 30_000, 30_000), (jpeg_of_size, 65_000, 65_000),
    (jpeg_of_size, 20_000, 20_000),
    (tiff_of_size, 2**31, 2**31), (tiff_of_size, 30_000, 30_000), (tiff_of_size, 20_000, 20_000),
])  # fmt: skip
def test_a_small_file_that_claims_a_huge_picture(make, width, height):
    message = refused(make(width, height))
    if width * height > MAX_PIXELS:
        assert str(width) in message


def test_a_bomb_in_a_png_profile_is_not_blown_up():
    packer = zlib.compressobj(1)
    bomb = b"".join(packer.compress(bytes(2**20)) for _ in range(80)) + packer.flush()
    file = png_with(pillow(smooth(), "PNG"), (b"iCCP", b"profile\0\0" + bomb))
    assert read_picture(file).keep.icc is None


@pytest.mark.parametrize(("data", "message"), [
    (b"", "is empty"), (b"some text, called .png", "none of PNG"), (b"GIF89a" + bytes(50), "none of PNG"),
    (b"\x89PNG\r\n\x1a\n", "truncated"), (b"\xff\xd8\xff", "truncated"), (b"RIFF\0\0\0\0WEBP", "."),
    (b"BM", "."),
    (b"II*\0", "."), (b"II*\0\x08\0\0\0\0\0", "."), (b"MM\0*" + b"\xff" * 100, "."),
])  # fmt: skip
def test_what_is_no_picture(data, message):
    assert refused(data, message).startswith("the picture: ")


def test_files_that_are_not_files(tmp_path):
    folder, pipe, loop, missing = (tmp_path / name for name in ("folder", "pipe", "loop", "missing.png"))
    folder.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to(loop)
    for path, message in [
        (folder, "is a folder"),
        (pipe, "not a regular file"),
        (loop, "symbolic links"),
        (missing, "No such file"),
        (Path("/dev/zero"), "not a regular file"),
    ]:
        assert refused(path, message).startswith(str(path))
    refused("a\0b", "no file name")


def test_a_name_that_lies_does_not_matter(tmp_path):
    path = tmp_path / "really_a_jpeg.png"
    path.write_bytes(KINDS["jpeg"])
    assert read_picture(path).keep.format == "jpeg"


def test_animations_are_refused():
    frames = [Image.fromarray(noise((9, 9, 3), seed=seed)) for seed in range(3)]
    for name in ("PNG", "WEBP"):
        buffer = io.BytesIO()
        frames[0].save(buffer, name, save_all=True, append_images=frames[1:])
        refused(buffer.getvalue(), "animation")


@pytest.mark.parametrize(("samples", "options", "message"), [
    (np.zeros((4, 4), np.float32), {"photometric": "minisblack"}, "32-bit floating-point"),
    (np.zeros((4, 4), np.float16), {"photometric": "minisblack"}, "16-bit floating-point"),
    (np.zeros((4, 4), np.int16), {"photometric": "minisblack"}, "16-bit signed"),
    (np.zeros((4, 4), np.uint32), {"photometric": "minisblack"}, "32-bit integer"),
    (np.zeros((4, 4, 3), np.uint8), {"photometric": "cielab"}, "CIELAB"),
    (np.zeros((4, 4, 3), np.uint8), {"photometric": "ycbcr", "subsampling": (1, 1)}, "YCBCR"),
    (np.zeros((4, 4), np.uint16), {"photometric": "cfa"}, "camera raw"),
    (np.zeros((4, 4), np.uint8), {"photometric": "minisblack", "subfiletype": 1}, "camera raw"),
    (np.zeros((2, 16, 16), np.uint8), {"photometric": "minisblack", "volumetric": True}, "volume"),
])  # fmt: skip
def test_tiffs_that_cannot_be_denoised_say_what_to_do(samples, options, message):
    assert ": " in refused(tiff(samples, **options), message)


def test_a_closed_folder_is_not_said_to_be_a_picture_that_is_a_folder(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", refuse)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(DenoiseError, match="cannot be read: Permission denied"):
        read_picture(tmp_path)


def test_deep_jpeg_and_odd_png_blocks_are_refused():
    deep = bytearray(KINDS["jpeg"])
    deep[deep.index(b"\xff\xc0") + 4] = 12
    refused(bytes(deep), "12 bits")
    refused(png_with(KINDS["png"], (b"CgBI", b"")), "CgBI")


def test_tiff_pages_in_a_circle():
    file = bytearray(tiff(smooth(), photometric="rgb"))
    end = 10 + 12 * struct.unpack_from("<H", file, 8)[0]
    file[end : end + 4] = struct.pack("<I", 8)
    refused(bytes(file), "circle")


def test_a_thousand_pages_that_share_one_strip():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        for _ in range(60):
            writer.write(np.zeros((1, 1), np.uint8), photometric="minisblack", metadata=None)
    file = bytearray(buffer.getvalue())
    for start in directories(bytes(file)):
        for entry in range(struct.unpack_from("<H", file, start)[0]):
            place = start + 2 + 12 * entry
            if struct.unpack_from("<H", file, place)[0] in (256, 257):
                struct.pack_into("<HII", file, place + 2, 4, 1, 4000)
    refused(bytes(file), "60 pages of more than")


@given(st.binary(max_size=200))
def test_any_bytes_make_an_exif_block_or_none(data):
    parsed(data)
    parsed(b"II*\0\x08\0\0\0" + data)
    parsed(b"MM\0+\0\x08\0\0\0\0\0\0\0\0\0\x10" + data)


def test_an_exif_block_cannot_make_itself_larger():
    entries = 60_000
    value = struct.pack("<HHII", 700, 7, 2**19, 8)
    directory = b"".join(struct.pack("<H", tag) + value[2:] for tag in range(1000, 1000 + entries))
    data = b"II*\0\x08\0\0\0" + struct.pack("<H", entries) + directory + bytes(4)
    assert sum(len(entry.data) for entry in parse(data).entries) <= len(data)


def test_exif_survives_taking_apart_and_putting_together():
    original = exif().tobytes()[6:]
    once = parse(original)
    assert once.number(274) == 6
    assert parse(block(once.order, once.entries)) == once
    assert parsed(b"nonsense") == Block("<", ())


def test_decoders_stay_quiet_without_touching_the_root_logger(caplog):
    level = logging.getLogger().level
    for name in ("png", "tiff"):
        refused(KINDS[name][: len(KINDS[name]) // 2])
    assert caplog.records == []
    assert logging.getLogger().level == level
