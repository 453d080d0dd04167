"""Pictures in and out without losing anything: mode, depth, alpha, profile, EXIF and the rest.

    picture = read_picture("in.png")
    write_picture(picture.replace_pixels(denoise(picture.pixels)), "out.png")

and for large ones, window by window:

    result = picture.empty_result()
    result[y0:y1, x0:x1] = denoise(picture.window(y0, y1, x0, x1))
    write_picture(result.picture(), "out.png")
"""

from denoise_cli.images.formats import (
    FORMATS,
    SUFFIXES,
    Format,
    as_stored,
    as_viewed,
    losses,
    output_format,
    sniff,
)
from denoise_cli.images.picture import MAX_PIXELS, Keep, Picture, Result
from denoise_cli.images.reading import in_channels, read_pages, read_picture, to_pixels, to_tensor
from denoise_cli.images.writing import encode_pages, encode_picture, write_pages, write_picture

__all__ = [
    "FORMATS",
    "MAX_PIXELS",
    "SUFFIXES",
    "Format",
    "Keep",
    "Picture",
    "Result",
    "as_stored",
    "as_viewed",
    "encode_pages",
    "encode_picture",
    "in_channels",
    "losses",
    "output_format",
    "read_pages",
    "read_picture",
    "sniff",
    "to_pixels",
    "to_tensor",
    "write_pages",
    "write_picture",
]
