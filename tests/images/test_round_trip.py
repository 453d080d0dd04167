"""Every format, mode, depth and size goes through, and other readers find what was meant."""

import io
import zlib

import imagecodecs
import numpy as np
import pytest
import tifffile
from image_corpus import PILLOW_MODES, noise, pillow, png_with, samples_of, smooth, tiff
from PIL import Image

from denoise_cli.errors import DenoiseError
from denoise_cli.images import (
    FORMATS,
    Picture,
    encode_pages,
    encode_picture,
    losses,
    output_format,
    read_pages,
    read_picture,
)

SAMPLES = {"gray": 1, "rgb": 3, "cmyk": 4}
SIZES = [(1, 1), (1, 5000), (5000, 1), (3, 3), (7, 5)]
LOSSLESS = [
    ("png", "gray", "none", 8), ("png", "gray", "straight", 8), ("png", "rgb", "none", 8),
    ("png", "rgb", "straight", 8), ("png", "gray", "none", 16), ("png", "gray", "straight", 16),
    ("png", "rgb", "none", 16), ("png", "rgb", "straight", 16), ("tiff", "gray", "none", 8),
    ("tiff", "gray", "straight", 8), ("tiff", "rgb", "none", 8), ("tiff", "rgb", "straight", 8),
    ("tiff", "rgb", "premultiplied", 8), ("tiff", "cmyk", "none", 8), ("tiff", "cmyk", "straight", 8),
    ("tiff", "gray", "none", 16), ("tiff", "gray", "straight", 16), ("tiff", "rgb", "none", 16),
    ("tiff", "rgb", "straight", 16), ("tiff", "cmyk", "none", 16), ("bmp", "gray", "none", 8),
    ("bmp", "rgb", "none", 8), ("bmp", "rgb", "straight", 8), ("webp", "rgb", "none", 8),
    ("webp", "rgb", "straight", 8),
]  # fmt: skip


def inverted(picture):
    return picture.replace_pixels(1 - picture.pixels)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize(("file_format", "color", "alpha", "bits"), LOSSLESS)
def test_lossless_formats_give_back_every_bit(file_format, color, alpha, bits, size):
    picture = Picture(noise((*size, SAMPLES[color] + (alpha != "none")), bits), color, alpha)
    file = encode_picture(picture, file_format)
    back = read_picture(file)
    assert (back.color, back.alpha, back.bits) == (color, alpha, bits)
    np.testing.assert_array_equal(back.samples, picture.samples)
    np.testing.assert_array_equal(samples_of(file), picture.samples)
    assert losses([back], FORMATS[file_format]) == []
    again = read_picture(encode_picture(back.replace_pixels(back.pixels), file_format))
    np.testing.assert_array_equal(again.samples, picture.samples)


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("color", ["gray", "rgb", "cmyk"])
def test_jpeg_of_every_mode_and_size(color, size):
    samples = np.full((*size, SAMPLES[color]), 90, np.uint8)
    samples[..., 0] = 120
    file = encode_picture(Picture(samples, color), "jpeg")
    back = read_picture(file)
    assert (back.color, back.samples.shape) == (color, samples.shape)
    np.testing.assert_allclose(back.samples.astype(int), samples, atol=2)
    with Image.open(io.BytesIO(file)) as image:
        assert image.mode == PILLOW_MODES[color, "none"]
        np.testing.assert_allclose(np.asarray(image).reshape(samples.shape).astype(int), samples, atol=2)


@pytest.mark.parametrize("file_format", ["png", "tiff", "webp", "bmp"])
def test_files_of_another_library_are_read_as_they_are(file_format):
    for color, alpha in PILLOW_MODES:
        if (color == "cmyk" and file_format != "tiff") or (color, file_format) == ("gray", "webp"):
            continue
        if alpha != "none" and file_format == "bmp":
            continue
        samples = noise((7, 5, SAMPLES[color] + (alpha != "none")))
        options = {"lossless": True, "exact": True} if file_format == "webp" else {}
        mode = PILLOW_MODES[color, alpha]
        picture = read_picture(pillow(samples, file_format.upper(), mode, **options))
        np.testing.assert_array_equal(picture.samples, samples, err_msg=mode)
        np.testing.assert_array_equal(samples_of(encode_picture(picture, file_format)), samples)
        assert (picture.color, picture.alpha) == (color, alpha)


@pytest.mark.parametrize("options", [
    {}, {"bigtiff": True}, {"byteorder": ">"}, {"compression": "lzw", "predictor": True},
    {"compression": "zlib", "predictor": True}, {"compression": "packbits"}, {"compression": "zstd"},
    {"compression": "lzma"}, {"tile": (16, 16)}, {"tile": (16, 32), "compression": "zlib"},
    {"planarconfig": "separate"}, {"planarconfig": "separate", "compression": "lzw"}, {"rowsperstrip": 3},
], ids=str)  # fmt: skip
@pytest.mark.parametrize("bits", [8, 16])
def test_tiffs_of_every_layout(bits, options):
    samples = noise((41, 35, 3), bits)
    array = np.moveaxis(samples, 2, 0) if options.get("planarconfig") == "separate" else samples
    picture = read_picture(tiff(array, photometric="rgb", **options))
    np.testing.assert_array_equal(picture.samples, samples)
    np.testing.assert_array_equal(
        samples_of(encode_picture(inverted(picture), "tiff")), 2**bits - 1 - samples
    )


@pytest.mark.parametrize(("compression", "number"), [(None, 1), ("lzw", 5), ("packbits", 32773), ("zlib", 8)])
def test_tiff_compression_is_kept(compression, number):
    picture = read_picture(tiff(smooth(), photometric="rgb", compression=compression))
    with tifffile.TiffFile(io.BytesIO(encode_picture(inverted(picture), "tiff"))) as file:
        assert file.pages[0].compression == number


def test_channels_of_unknown_meaning_stay_in_a_tiff_and_nowhere_else():
    samples = noise((7, 5, 6), 16)
    file = tiff(samples, photometric="rgb", extrasamples=(2, 0, 0), planarconfig="contig")
    picture = read_picture(file)
    assert (picture.alpha, picture.extra) == ("straight", 2)
    np.testing.assert_array_equal(samples_of(encode_picture(picture, "tiff")), samples)
    with pytest.raises(DenoiseError, match=r"2 more channels.*\.tif"):
        losses([picture], FORMATS["png"])


def test_white_is_zero_is_understood():
    samples = noise((7, 5, 1))
    picture = read_picture(tiff(samples, photometric="miniswhite"))
    np.testing.assert_array_equal(picture.samples, 255 - samples)


def test_every_page_of_a_tiff():
    buffer = io.BytesIO()
    pages = [noise((9, 7)), noise((5, 4, 3), 16), noise((3, 3, 4))]
    with tifffile.TiffWriter(buffer) as writer:
        for page, photometric in zip(pages, ["minisblack", "rgb", "separated"], strict=True):
            writer.write(page, photometric=photometric, metadata=None, description="scan")
    pictures = read_pages(buffer.getvalue())
    assert [picture.color for picture in pictures] == ["gray", "rgb", "cmyk"]
    file = encode_pages([picture.replace_pixels(picture.pixels) for picture in pictures], "tiff")
    with tifffile.TiffFile(io.BytesIO(file)) as tif:
        assert len(tif.pages) == 3
        for page, wanted in zip(tif.pages, pages, strict=True):
            np.testing.assert_array_equal(page.asarray(), wanted)
            assert page.description == "scan"
    with pytest.raises(DenoiseError, match="3 pages"):
        read_picture(buffer.getvalue())
    with pytest.raises(DenoiseError, match=r"3 pages.*\.tif"):
        encode_pages(pictures, "png")


def test_thumbnails_in_a_tiff_are_left_out_with_a_note():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(noise((16, 16)), photometric="minisblack", metadata=None)
        writer.write(noise((4, 4)), photometric="minisblack", subfiletype=1, metadata=None)
    picture = read_picture(buffer.getvalue())
    assert picture.samples.shape == (16, 16, 1)
    assert "thumbnails" in losses([picture], FORMATS["tiff"])[0]


def test_pictures_under_a_page_of_a_tiff_are_left_out_with_a_note():
    buffer = io.BytesIO()
    with tifffile.TiffWriter(buffer) as writer:
        writer.write(noise((16, 16)), photometric="minisblack", subifds=1, metadata=None)
        writer.write(noise((8, 8)), photometric="minisblack", metadata=None)
    picture = read_picture(buffer.getvalue())
    assert losses([picture], FORMATS["tiff"]) == [
        "the further pictures under its pages (SubIFDs) are dropped"
    ]


@pytest.mark.parametrize("file_format", ["png", "bmp", "tiff"])
def test_a_palette_becomes_full_colour_unless_nothing_changed(file_format):
    image = Image.fromarray(smooth(20, 30, 3)).quantize(40)
    buffer = io.BytesIO()
    image.save(buffer, file_format.upper())
    picture = read_picture(buffer.getvalue())
    np.testing.assert_array_equal(picture.samples, np.asarray(image.convert("RGB")))
    assert encode_picture(picture.replace_pixels(picture.pixels), file_format) == buffer.getvalue()
    changed = encode_picture(inverted(picture), file_format)
    np.testing.assert_array_equal(samples_of(changed), 255 - picture.samples)
    assert "palette" in losses([inverted(picture)], FORMATS[file_format])[0]


def test_a_palette_keeps_its_transparency():
    image = Image.fromarray(smooth(20, 30, 3)).quantize(8)
    buffer = io.BytesIO()
    image.save(buffer, "PNG", transparency=bytes([0, 100, 200]))
    picture = read_picture(buffer.getvalue())
    with Image.open(io.BytesIO(buffer.getvalue())) as other:
        expected = np.asarray(other.convert("RGBA"))
    np.testing.assert_array_equal(picture.samples, expected)
    changed = samples_of(encode_picture(inverted(picture), "png"))
    np.testing.assert_array_equal(changed[..., 3], expected[..., 3])


@pytest.mark.parametrize("bits", [1, 2, 4])
def test_few_gray_levels_become_eight_bits(bits):
    levels = noise((9, 13)) >> (8 - bits)
    packed = np.packbits(np.unpackbits(levels[..., None], axis=2)[..., 8 - bits :].reshape(9, -1), axis=1)
    tags = [
        (256, 13),
        (257, 9),
        (258, bits),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 9),
        (279, packed.size),
    ]
    start = 8 + packed.size + packed.size % 2
    directory = b"".join(np.array([tag, 4, 1, 0, value, 0], "<u2").tobytes() for tag, value in tags)
    file = b"II*\0" + np.uint32(start).tobytes() + packed.tobytes() + b"\0" * (packed.size % 2)
    file += np.uint16(len(tags)).tobytes() + directory + bytes(4)
    picture = read_picture(file)
    assert picture.bits == 8
    np.testing.assert_array_equal(picture.samples[..., 0], levels * (255 // (2**bits - 1)))
    assert "become 8" in losses([inverted(picture)], FORMATS["tiff"])[0]


def test_a_one_bit_png_becomes_gray():
    picture = read_picture(pillow(smooth()[..., 0] > 90, "PNG"))
    np.testing.assert_array_equal(picture.samples[..., 0], (smooth()[..., 0] > 90) * np.uint8(255))


@pytest.mark.parametrize("depth", [8, 16])
def test_a_transparent_colour_becomes_alpha(depth):
    samples = noise((6, 6, 3), depth)
    key = samples[2, 3].astype(">u2").tobytes()
    file = png_with(bytes(imagecodecs.png_encode(samples)), (b"tRNS", key))
    picture = read_picture(file)
    assert encode_picture(picture.replace_pixels(picture.pixels), "png") == file
    assert picture.alpha == "straight"
    expected = np.full((6, 6), 2**depth - 1)
    expected[2, 3] = 0
    np.testing.assert_array_equal(picture.samples[..., 3], expected)
    np.testing.assert_array_equal(samples_of(encode_picture(inverted(picture), "png"))[..., 3], expected)


def test_an_interlaced_png():
    samples = smooth(1, 1)
    file = bytearray(imagecodecs.png_encode(samples))
    file[28] = 1  # a single pixel is the same interlaced
    file[29:33] = zlib.crc32(bytes(file[12:29])).to_bytes(4, "big")
    np.testing.assert_array_equal(read_picture(bytes(file)).samples, samples)


@pytest.mark.parametrize("target", ["jpeg", "webp", "bmp"])
def test_sixteen_bits_are_rounded_to_eight_with_a_note(target):
    picture = Picture(np.array([[[0, 128, 129], [257, 32896, 65535]]], np.uint16), "rgb")
    assert "8 bits" in losses([picture], FORMATS[target])[0]
    if target != "jpeg":
        np.testing.assert_array_equal(
            samples_of(encode_picture(picture, target)), [[[0, 0, 1], [1, 128, 255]]]
        )


@pytest.mark.parametrize(("color", "alpha", "target", "way_out"), [
    ("rgb", "straight", "jpeg", ".png"), ("gray", "straight", "jpeg", ".png"),
    ("cmyk", "none", "png", ".tif"), ("cmyk", "none", "webp", ".tif"), ("cmyk", "none", "bmp", ".tif"),
])  # fmt: skip
def test_what_would_lose_too_much_is_refused_with_a_way_out(color, alpha, target, way_out):
    picture = Picture(noise((3, 3, SAMPLES[color] + (alpha != "none"))), color, alpha)
    with pytest.raises(DenoiseError) as caught:
        encode_picture(picture, target)
    assert way_out in str(caught.value)


@pytest.mark.parametrize(("target", "width"), [("webp", 16_384), ("jpeg", 65_501)])
def test_a_format_that_is_too_small_says_so(target, width):
    with pytest.raises(DenoiseError, match=r"pixels a side.*\.png"):
        encode_picture(Picture(np.zeros((1, width, 1), np.uint8), "gray"), target)


def test_premultiplied_colours_are_divided_for_formats_without_them():
    picture = Picture(np.array([[[51, 100, 0, 100], [3, 3, 3, 0]]], np.uint8), "rgb", "premultiplied")
    assert "multiplied" in losses([picture], FORMATS["png"])[0]
    np.testing.assert_array_equal(
        samples_of(encode_picture(picture, "png")), [[[130, 255, 0, 100], [3, 3, 3, 0]]]
    )
    file = encode_picture(picture, "tiff")
    np.testing.assert_array_equal(samples_of(file), picture.samples)
    assert read_picture(file).alpha == "premultiplied"


@pytest.mark.parametrize(
    ("source", "target"), [("png", "tiff"), ("tiff", "png"), ("png", "bmp"), ("bmp", "webp")]
)
def test_lossless_formats_turn_into_each_other(source, target):
    samples = noise((13, 11, 4))
    picture = read_picture(encode_picture(Picture(samples, "rgb", "straight"), source))
    np.testing.assert_array_equal(samples_of(encode_picture(picture, target)), samples)


def test_gray_in_a_webp_is_three_equal_channels():
    samples = noise((5, 6, 2))
    file = encode_picture(Picture(samples, "gray", "straight"), "webp")
    np.testing.assert_array_equal(samples_of(file), samples[..., [0, 0, 0, 1]])


def test_a_large_odd_picture():
    picture = Picture(np.tile(smooth(401, 301), (10, 10, 1))[:4001, :3001], "rgb")
    for file_format in ("png", "jpeg", "tiff"):
        back = read_picture(encode_picture(picture, file_format))
        assert back.samples.shape == (4001, 3001, 3)


@pytest.mark.parametrize(("name", "wanted"), [("a.JPG", "jpeg"), ("b.tif", "tiff"), ("c.d.webp", "webp")])
def test_the_name_tells_the_format(name, wanted):
    assert output_format(name).name == wanted
    assert output_format("anything", wanted).name == wanted


@pytest.mark.parametrize(("name", "option"), [("a.xyz", None), ("a", None), ("a.png", "gif")])
def test_an_unknown_format_is_wrong_usage(name, option):
    with pytest.raises(DenoiseError, match="unknown format") as caught:
        output_format(name, option)
    assert caught.value.exit_code == 2
