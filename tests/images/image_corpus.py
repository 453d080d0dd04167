"""Pictures and files for the tests of `denoise_cli.images`, made without the code under test."""

import io
import struct
import zlib

import imagecodecs
import numpy as np
import tifffile
from PIL import Image, ImageCms
from PIL.PngImagePlugin import PngInfo
from PIL.TiffImagePlugin import IFDRational

ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
XMP = b"<x:xmpmeta xmlns:x='adobe:ns:meta/'><rdf:RDF>rating 4</rdf:RDF></x:xmpmeta>"
IPTC = b"\x1c\x02\x19\x00\x03cat"  # one keyword
PILLOW_MODES = {("gray", "none"): "L", ("gray", "straight"): "LA", ("rgb", "none"): "RGB"} | {
    ("rgb", "straight"): "RGBA",
    ("cmyk", "none"): "CMYK",
}


def noise(shape, bits=8, seed=0):
    """Random samples: every value occurs, no neighbour tells the next."""
    dtype = np.uint8 if bits == 8 else np.uint16
    return np.random.default_rng(seed).integers(0, 2**bits, shape).astype(dtype)


def smooth(height=40, width=52, channels=3):
    """Soft gradients, which even lossy formats keep nearly as they are."""
    y, x = np.mgrid[:height, :width]
    planes = [(40 + 2 * y + (c + 1) * x) % 256 if c == 3 else 40 + y + (c + 1) * x for c in range(channels)]
    return np.clip(np.stack(planes, axis=2), 0, 255).astype(np.uint8)


def exif(orientation=6):
    """An EXIF block with a maker, an orientation, 240 dpi, an exposure time and a place."""
    block = Image.Exif()
    block[271] = "Maker"
    block[274] = orientation
    block[282], block[283], block[296] = 240, 240, 2
    block[34665] = {33434: IFDRational(1, 250), 36867: "2024:05:06 07:08:09"}
    block[34853] = {1: "N"}
    return block


def iptc_resource():
    """The IPTC records as Photoshop wraps them in a JPEG."""
    return (
        b"Photoshop 3.0\0"
        + b"8BIM"
        + struct.pack(">HHI", 0x0404, 0, len(IPTC))
        + IPTC
        + b"\0" * (len(IPTC) % 2)
    )


def pillow(samples, file_format, mode=None, **options):
    """A file written by Pillow."""
    buffer = io.BytesIO()
    array = samples[..., 0] if samples.ndim == 3 and samples.shape[2] == 1 else samples
    if mode is None:
        image = Image.fromarray(array)
    else:
        image = Image.frombytes(mode, array.shape[1::-1], np.ascontiguousarray(array).tobytes())
    image.save(buffer, file_format, **options)
    return buffer.getvalue()


def tiff(samples, **options):
    """A file written by tifffile."""
    buffer = io.BytesIO()
    array = samples[..., 0] if samples.ndim == 3 and samples.shape[2] == 1 else samples
    tifffile.imwrite(buffer, array, metadata=None, **options)
    return buffer.getvalue()


def png_block(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_with(file, *blocks):
    """The PNG with more blocks, right after its header."""
    return file[:33] + b"".join(png_block(*block) for block in blocks) + file[33:]


def described(file_format):
    """A smooth colour picture with profile, EXIF, XMP and 240 dpi."""
    samples = smooth()
    options = {"exif": exif().tobytes(), "icc_profile": ICC}
    if file_format == "jpeg":
        return pillow(samples, "JPEG", quality=95, subsampling=0, dpi=(240, 240), xmp=XMP, **options)
    if file_format == "png":
        text = PngInfo()
        text.add_itxt("XML:com.adobe.xmp", XMP.decode())
        text.add_text("Title", "a title")
        return pillow(samples, "PNG", dpi=(240, 240), pnginfo=text, **options)
    if file_format == "webp":
        return pillow(samples, "WEBP", lossless=True, xmp=XMP, **options)
    tags = exif()
    tags[700], tags[33723] = XMP, IPTC
    options["exif"] = tags.tobytes()
    return pillow(samples, "TIFF", dpi=(240, 240), **options)


def look(file):
    """What Pillow, another reader, finds in a file: (samples, profile, exif, xmp, dpi)."""
    with Image.open(io.BytesIO(file)) as image:
        tags, dpi, xmp = image.getexif(), image.info.get("dpi"), image.info.get("xmp")
        if image.format == "TIFF":  # Pillow turns it upright in loading; tifffile does not
            samples = tifffile.imread(io.BytesIO(file))
            xmp = image.tag_v2.get(700)
        else:
            samples = np.asarray(image)
            xmp = image.info.get("XML:com.adobe.xmp", xmp)
        tags.get_ifd(34665), tags.get_ifd(34853)  # read while the file is open
        return (
            samples,
            image.info.get("icc_profile"),
            tags,
            xmp.encode() if isinstance(xmp, str) else xmp,
            dpi,
        )


def samples_of(file):
    """The samples by a reader that shares nothing with ours but the decoder: (H, W, S)."""
    if file[:2] in (b"II", b"MM"):
        array = tifffile.imread(io.BytesIO(file))
    elif file[:4] == b"\x89PNG":
        array = imagecodecs.png_decode(file)
    else:
        array = look(file)[0]
    return array[..., None] if array.ndim == 2 else array


def every_kind():
    """One small file of every kind that can be read, by name."""
    rgb, gray = noise((31, 23, 3)), smooth(31, 23, 1)[..., 0]
    palette = Image.fromarray(gray).convert("P")
    files = {
        "jpeg": described("jpeg"),
        "jpeg-progressive": pillow(rgb, "JPEG", progressive=True),
        "jpeg-gray": pillow(gray, "JPEG"),
        "jpeg-cmyk": pillow(noise((31, 23, 4)), "JPEG", "CMYK"),
        "png": described("png"),
        "png-16": imagecodecs.png_encode(noise((31, 23, 3), 16)),
        "png-bits": pillow(gray > 90, "PNG"),
        "webp": pillow(rgb, "WEBP", exif=exif().tobytes()),
        "webp-lossless": described("webp"),
        "bmp": pillow(rgb, "BMP"),
        "bmp-gray": pillow(gray, "BMP"),
        "tiff": described("tiff"),
        "tiff-bits": tiff(gray > 90, photometric="minisblack"),
        "tiff-pages": tiff(np.stack([gray] * 3), photometric="minisblack", compression="zlib"),
        "tiff-tiles": tiff(noise((31, 23, 3), 16), photometric="rgb", tile=(16, 16), compression="zlib"),
        "tiff-big": tiff(rgb, photometric="rgb", bigtiff=True, compression="packbits"),
        "tiff-jpeg": tiff(rgb, photometric="rgb", compression="jpeg"),
    }
    for name in ("PNG", "BMP", "TIFF"):
        buffer = io.BytesIO()
        palette.save(buffer, name)
        files[f"{name.lower()}-palette"] = buffer.getvalue()
    return files
