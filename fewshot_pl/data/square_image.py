"""From a photograph of any size and kind to the small square that a network sees."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps

from fewshot_pl.data.bit_depth import eight_bit

Channels = Literal[1, 3]
_TURNS: dict[object, Image.Transpose] = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # the transpose that makes an image of each EXIF orientation upright
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of photographs, by channel


def square_image(image: Image.Image, size: int, channels: Channels) -> NDArray[np.uint8]:
    """The largest centred square of an image as uint8 [channels, size, size], upright and on white.

    The shorter side is brought to ``size`` and the longer one cropped at both ends. EXIF orientation is applied,
    transparent parts become white, depths above 8 bits are scaled to 8 (see ``eight_bit``), and colour becomes grey for
    one channel.
    """
    return _pixels(ImageOps.fit(plain_colour(image), (size, size), Image.Resampling.LANCZOS), channels)


def whole_image(image: Image.Image, size: int, channels: Channels = 3) -> NDArray[np.uint8]:
    """A whole image, grey or of any colours, as uint8 [channels, size, size], whatever its proportions."""
    # Lanczos, as in the data script of Finn et al. 2017 for miniImageNet.
    return _pixels(image.convert("RGB").resize((size, size), Image.Resampling.LANCZOS), channels)


def _pixels(image: Image.Image, channels: Channels) -> NDArray[np.uint8]:
    return np.asarray(image).transpose(2, 0, 1) if channels == 3 else np.asarray(image.convert("L"))[None]


def plain_colour(image: Image.Image) -> Image.Image:
    """An image in 8-bit RGB, upright by its EXIF orientation, and on white where it is transparent.

    Unreadable EXIF data is ignored.

    Raises:
        InputError: it has more than 8 bits, and values of no known range.
    """
    turn = _turn(image)
    plain = _on_white(eight_bit(image)).convert("RGB")  # first, as a turned image no longer knows its file's depth
    return plain if turn is None else plain.transpose(turn)


def _turn(image: Image.Image) -> Image.Transpose | None:
    """As ``ImageOps.exif_transpose`` turns it, which also rewrites all EXIF data and fails if it is damaged."""
    image.load()  # only then is a PNG's EXIF data known, and a TIFF turned by Pillow itself
    try:
        return _TURNS.get(image.getexif().get(ExifTags.Base.Orientation))
    except Exception:  # Pillow can raise anything on damaged EXIF data
        return None


def _on_white(image: Image.Image) -> Image.Image:
    if not image.has_transparency_data:
        return image
    return Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
