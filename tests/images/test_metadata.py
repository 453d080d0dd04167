"""What belongs to a picture comes along: profile, EXIF, XMP, IPTC, resolution, orientation, JPEG quality."""

import io
import json
import shutil
import struct
import subprocess

import imagecodecs
import numpy as np
import pytest
import tifffile
from image_corpus import (
    ICC,
    IPTC,
    XMP,
    described,
    exif,
    iptc_resource,
    look,
    noise,
    pillow,
    png_with,
    samples_of,
    smooth,
    tiff,
)
from PIL import Image, ImageOps
from skimage.data import chelsea

from denoise_cli.images import FORMATS, Picture, encode_picture, losses, read_picture, write_picture

CARRIERS = ["jpeg", "png", "webp", "tiff"]


def changed(file):
    """The picture of a file, a little darker."""
    picture = read_picture(file)
    return picture.replace_pixels(picture.pixels * 0.9)


@pytest.mark.parametrize("target", CARRIERS)
@pytest.mark.parametrize("source", CARRIERS)
def test_profile_exif_xmp_and_resolution_come_along(source, target):
    picture = changed(described(source))
    file = encode_picture(picture, target)
    samples, icc, tags, xmp, dpi = look(file)
    assert samples.shape == (40, 52, 3)
    assert icc == ICC
    assert xmp == XMP
    assert (tags[271], tags[274]) == ("Maker", 6)
    assert float(tags.get_ifd(34665)[33434]) == pytest.approx(1 / 250)
    assert tags.get_ifd(34665)[36867] == "2024:05:06 07:08:09"
    assert tags.get_ifd(34853)[1] == "N"
    assert tuple(map(float, dpi or (tags[282], tags[283]))) == pytest.approx((240, 240), abs=0.01)
    keep = read_picture(file).keep
    assert (keep.icc, keep.xmp) == (ICC, XMP)


@pytest.mark.parametrize("source", ["jpeg", "png", "webp"])
@pytest.mark.parametrize("target", ["jpeg", "png", "webp"])
def test_exif_travels_byte_for_byte(source, target):
    block = exif().tobytes()[6:]
    assert read_picture(encode_picture(changed(described(source)), target)).keep.exif == block


@pytest.mark.parametrize("target", ["png", "webp", "tiff", "bmp"])
def test_resolution_without_exif(target):
    picture = changed(pillow(smooth(), "JPEG", dpi=(300, 150)))
    assert read_picture(encode_picture(picture, target)).keep.dpi == pytest.approx((300, 150), abs=0.02)


def test_exif_is_the_same_after_a_tiff():
    through = encode_picture(read_picture(encode_picture(changed(described("jpeg")), "tiff")), "png")
    ours, original = look(through)[2], look(described("jpeg"))[2]
    for tag in (34665, 34853):
        assert ours.get_ifd(tag) == original.get_ifd(tag)


@pytest.mark.parametrize("source", CARRIERS)
@pytest.mark.parametrize("target", [*CARRIERS, "bmp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_handled_once(source, target, orientation):
    file = pillow(smooth(9, 14), source.upper(), exif=exif(orientation).tobytes(), lossless=True)
    seen = ImageOps.exif_transpose(Image.open(io.BytesIO(file))).convert("RGB")
    picture = read_picture(file)
    assert picture.samples.shape == (9, 14, 3)
    with Image.open(io.BytesIO(encode_picture(picture, target))) as written:
        if target != "bmp":
            assert written.getexif()[274] == orientation
            assert samples_of(written.fp.getvalue()).shape[:2] == (9, 14)
        after = np.asarray(ImageOps.exif_transpose(written)).astype(int)
    np.testing.assert_allclose(after, np.asarray(seen), atol=0 if target in ("png", "tiff", "bmp") else 40)
    notes = losses([picture], FORMATS[target])
    assert any("turned upright" in note for note in notes) == (target == "bmp" and orientation != 1)


def test_iptc_goes_between_jpeg_and_tiff_and_is_named_where_it_cannot():
    plain = pillow(smooth(), "JPEG")
    payload = iptc_resource()
    source = plain[:2] + b"\xff\xed" + (len(payload) + 2).to_bytes(2, "big") + payload + plain[2:]
    picture = changed(source)
    assert picture.keep.iptc == IPTC
    assert payload in encode_picture(picture, "jpeg")
    as_tiff = encode_picture(picture, "tiff")
    with tifffile.TiffFile(io.BytesIO(as_tiff)) as file:
        assert file.pages[0].tags[33723].value == IPTC
    assert payload in encode_picture(changed(as_tiff), "jpeg")
    assert losses([picture], FORMATS["png"]) == ["PNG cannot hold IPTC"]


def test_png_keeps_its_text_and_colour_blocks_in_place():
    blocks = [
        (b"gAMA", (45455).to_bytes(4, "big")),
        (b"cHRM", bytes(range(32))),
        (b"tIME", bytes([7, 232, 1, 2, 3, 4, 5])),
        (b"prVt", b"private and safe to copy"),
        (b"prVT", b"private and tied to the pixels"),
    ]
    file = png_with(pillow(smooth(), "PNG"), *blocks)
    end = file[-12:]
    file = file[:-12] + png_with(b"x" * 33, (b"tEXt", b"Comment\0after the picture"))[33:] + end
    picture = changed(file)
    written = encode_picture(picture, "png")
    for kind, data in blocks[:-1]:
        assert kind + data in written
        assert written.index(kind) < written.index(b"IDAT")
    assert b"prVT" not in written
    assert written.index(b"tEXt") > written.index(b"IDAT")
    assert losses([picture], FORMATS["png"]) == []
    assert len(losses([picture], FORMATS["tiff"])) == 2  # text, and gamma with primaries


def test_blocks_about_the_old_samples_are_dropped():
    file = png_with(pillow(smooth(), "PNG"), (b"sBIT", bytes([5, 6, 5])), (b"bKGD", bytes(6)))
    written = encode_picture(changed(file), "png")
    assert b"sBIT" not in written
    assert b"bKGD" not in written


@pytest.mark.parametrize("quality", [30, 75, 92, 100])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_jpeg_quality_is_kept(quality, subsampling, progressive):
    options = {"quality": quality, "subsampling": subsampling, "progressive": progressive}
    file = pillow(smooth(), "JPEG", **options)
    before, after = (Image.open(io.BytesIO(f)) for f in (file, encode_picture(changed(file), "jpeg")))
    assert [layer[:3] for layer in after.layer] == [layer[:3] for layer in before.layer]
    tables = [[image.quantization[layer[3]] for layer in image.layer] for image in (before, after)]
    assert tables[0] == tables[1]
    assert bool(after.info.get("progressive")) == progressive


def test_a_new_jpeg_has_full_chroma_and_high_quality():
    with Image.open(io.BytesIO(encode_picture(Picture(smooth(), "rgb"), "jpeg"))) as image:
        assert [layer[1:3] for layer in image.layer] == [(1, 1)] * 3
        assert sum(image.quantization[0]) / 64 < 12


def test_a_jpeg_of_red_green_and_blue_stays_one():
    file = pillow(smooth(), "JPEG", keep_rgb=True, quality=95)
    written = encode_picture(changed(file), "jpeg")
    with Image.open(io.BytesIO(written)) as image:
        assert [layer[0] for layer in image.layer] == [ord(c) for c in "RGB"]
    np.testing.assert_allclose(read_picture(written).samples, smooth() * 0.9, atol=6)


def test_a_picture_that_is_turned_takes_its_resolution_along():
    exif = Image.Exif()
    exif[0x0112] = 6
    file = pillow(smooth(), "JPEG", dpi=(300, 72), exif=exif)
    with Image.open(io.BytesIO(encode_picture(changed(file), "bmp"))) as image:
        assert image.size == (smooth().shape[0], smooth().shape[1])
        assert image.info["dpi"] == pytest.approx((72, 300), abs=0.1)


def test_a_cmyk_jpeg_stays_one():
    samples = smooth(40, 52, 4)
    file = pillow(samples, "JPEG", "CMYK", quality=97)
    picture = read_picture(file)
    np.testing.assert_allclose(picture.samples.astype(int), samples, atol=8)
    written = encode_picture(changed(file), "jpeg")
    np.testing.assert_allclose(samples_of(written)[..., 3].astype(int), picture.samples[..., 3], atol=8)


def test_a_cmyk_jpeg_of_luma_and_chroma_keeps_the_quality_of_every_ink():
    samples = np.asarray(Image.fromarray(chelsea()[:160, :200]).convert("CMYK"))
    file = imagecodecs.jpeg8_encode(
        255 - samples, level=75, colorspace="CMYK", outcolorspace="YCCK", subsampling="444"
    )
    picture = read_picture(file)
    pixels = picture.pixels.copy()
    pixels[0, 0] = 0.5  # else the file would be written as it was
    after = samples_of(encode_picture(picture.replace_pixels(pixels), "jpeg"))
    errors = after[8:].astype(float) - picture.samples[8:]
    assert (np.square(errors).mean((0, 1)) < 255**2 / 10**4.5).all()  # more than 45 dB


@pytest.mark.parametrize("make", [
    lambda: described("jpeg"),
    lambda: pillow(smooth(), "WEBP", quality=40),
    lambda: pillow(smooth(), "JPEG", quality=20) + b"what a phone puts after its picture",
])  # fmt: skip
def test_a_lossy_file_that_did_not_change_comes_back_as_it_was(make, tmp_path):
    file = make()
    picture = read_picture(file)
    same = picture.replace_pixels(picture.pixels)
    assert write_picture(same, tmp_path / f"same.{picture.keep.format}") == []
    assert (tmp_path / f"same.{picture.keep.format}").read_bytes() == file


def test_lossless_webp_stays_lossless_and_lossy_stays_lossy():
    assert b"VP8L" in encode_picture(changed(described("webp")), "webp")
    assert b"VP8 " in encode_picture(changed(pillow(smooth(), "WEBP", quality=80)), "webp")
    assert b"VP8L" in encode_picture(changed(described("png")), "webp")


def test_further_pictures_in_a_jpeg_are_dropped_with_a_note():
    buffer = io.BytesIO()
    first, second = Image.fromarray(smooth()), Image.fromarray(smooth(8, 8))
    first.save(buffer, "MPO", save_all=True, append_images=[second])
    picture = read_picture(buffer.getvalue())
    assert picture.samples.shape == (40, 52, 3)
    assert "further pictures" in losses([changed(buffer.getvalue())], FORMATS["jpeg"])[0]
    assert b"MPF\0" not in encode_picture(changed(buffer.getvalue()), "jpeg")


def test_other_tags_of_a_tiff_are_kept():
    tags = [
        (270, 2, 0, "description", True),
        (33550, 12, 3, (1.0, 2.0, 0.0), True),
        (65000, 1, 3, b"abc", True),
    ]
    for byteorder in "<>":
        file = tiff(smooth(), photometric="rgb", extratags=tags, byteorder=byteorder, software="scanner")
        picture = changed(file)
        with tifffile.TiffFile(io.BytesIO(encode_picture(picture, "tiff"))) as written:
            found = written.pages[0].tags
            assert written.byteorder == byteorder
            assert found[270].value == "description"
            assert found[305].value == "scanner"
            assert found[33550].value == (1.0, 2.0, 0.0)
            assert bytes(found[65000].value) == b"abc"
        assert losses([picture], FORMATS["png"]) == ["PNG cannot hold its further tags"]


def test_colorimetry_of_a_tiff_stays_and_what_goes_is_told():
    white, primaries = (3127, 10000, 3290, 10000), (64, 100, 33, 100, 30, 100, 60, 100, 15, 100, 6, 100)
    tags = [
        (318, "2I", 2, white, True),
        (319, "2I", 6, primaries, True),
        (301, "H", 3 * 256, tuple(range(256)) * 3, True),
        (37724, "s", 0, b"Adobe Photoshop Document Data Block", True),
    ]
    picture = changed(tiff(smooth(), photometric="rgb", extratags=tags))
    assert losses([picture], FORMATS["tiff"]) == [
        "its transfer function is dropped",
        "its layers (of Photoshop) are dropped",
    ]
    with tifffile.TiffFile(io.BytesIO(encode_picture(picture, "tiff"))) as written:
        found = written.pages[0].tags
        assert (found[318].value, found[319].value) == (white, primaries)
        assert not {301, 37724} & set(found.keys())


def test_resolution_in_centimetres_stays_so():
    file = tiff(smooth(), photometric="rgb", resolution=(100, 50), resolutionunit="CENTIMETER")
    picture = changed(file)
    assert picture.keep.dpi == pytest.approx((254, 127))
    with tifffile.TiffFile(io.BytesIO(encode_picture(picture, "tiff"))) as written:
        assert written.pages[0].tags[296].value == 3
        assert written.pages[0].tags[282].value == (100, 1)
    assert look(encode_picture(picture, "png"))[4] == pytest.approx((254, 127), abs=0.02)


def test_a_profile_and_resolution_in_a_bmp():
    written = encode_picture(changed(described("png")), "bmp")
    keep = read_picture(written).keep
    assert keep.icc == ICC
    assert keep.dpi == pytest.approx((240, 240), abs=0.02)


@pytest.mark.parametrize(("reserved", "told"), [(0, False), (255, False), (None, True)])
def test_what_a_bmp_hides_beside_its_colours_is_told(reserved, told):
    pixels = noise((5, 7, 4))
    if reserved is not None:
        pixels[..., 3] = reserved
    head = struct.pack("<2sIHHI", b"BM", 54 + pixels.size, 0, 0, 54)
    head += struct.pack("<IiiHHIIiiII", 40, 7, -5, 1, 32, 0, pixels.size, 0, 0, 0, 0)
    picture = read_picture(head + pixels.tobytes())
    np.testing.assert_array_equal(picture.samples, pixels[..., 2::-1])
    assert any("fourth byte" in note for note in losses([picture], FORMATS["png"])) == told


def test_a_long_profile_takes_several_jpeg_segments():
    icc = ICC[:16] + b"RGB " + ICC[20:] + bytes(200_000)
    source = pillow(smooth(), "PNG", icc_profile=icc)
    written = encode_picture(read_picture(source), "jpeg")
    assert look(written)[1] == icc
    assert read_picture(written).keep.icc == icc


def test_what_does_not_fit_into_a_jpeg_is_named_and_the_picture_turned():
    block = exif(6)
    block[37510] = b"x" * 70_000
    picture = read_picture(pillow(smooth(9, 14), "PNG", exif=block.tobytes()))
    notes = losses([picture], FORMATS["jpeg"])
    assert any("EXIF" in note for note in notes)
    assert any("upright" in note for note in notes)
    assert read_picture(encode_picture(picture, "jpeg")).samples.shape == (14, 9, 3)


@pytest.mark.skipif(shutil.which("exiftool") is None, reason="exiftool is not installed")
@pytest.mark.parametrize("target", CARRIERS)
def test_exiftool_finds_the_same_tags(target, tmp_path):
    def tags(path):
        command = ["exiftool", "-j", "-G1", "-n", "-EXIF:all", "-XMP:all", "-ICC_Profile:all", path]
        found = json.loads(subprocess.run(command, capture_output=True, check=True).stdout)[0]
        del found["SourceFile"]
        return found

    source, written = tmp_path / "in.jpg", tmp_path / f"out.{target}"
    source.write_bytes(described("jpeg"))
    write_picture(changed(source.read_bytes()), written)
    before, after = tags(source), tags(written)
    assert before.items() <= after.items()
    assert len(before) > 20
