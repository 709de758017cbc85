"""Images of more than 8 bits, scaled to 8."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from fewshot_pl.errors import InputError

_SIXTEEN, _FULL = 65535.0, 2.0**31 - 1  # the white of 16 bits, and of 31 with a sign
_INTEGER_WHITES, _FLOAT_WHITES = (255.0, _SIXTEEN, _FULL), (1.0, 255.0, _SIXTEEN, _FULL)
_OVERSHOOT = 1.25  # resizing leaves floating-point pixels somewhat above white, which are no sign of a wider range
_DARKEST = 2.0**24  # a brightest value below it would be black on the full range: far more likely another range


def eight_bit(image: Image.Image) -> Image.Image:
    """An image with at most 8 bits per channel.

    What the file says of its depth decides; where it says only 32 bits, white is the smallest of 1 (of floating-point
    values), 255, 65535 and 2^31 - 1 that the image does not exceed.

    Raises:
        InputError: its values fit no such range.
    """
    if not _is_deep(image):
        return image
    values = np.asarray(image).astype(np.float64)
    white = _white(image, values, "this image")  # one from a file was checked under its name
    return Image.fromarray((values / white * 255).clip(0, 255).round().astype(np.uint8))


def check_depth(image: Image.Image, name: str) -> None:
    """Raise InputError if ``eight_bit`` would."""
    if _is_deep(image):
        _white(image, np.asarray(image).astype(np.float64), name)


def _is_deep(image: Image.Image) -> bool:
    return image.mode in ("F", "I") or image.mode.startswith("I;")


def _white(image: Image.Image, values: NDArray[np.float64], name: str) -> float:
    """The value of white, by ``eight_bit``'s rules; ``name`` is what an error calls the image."""
    if _has_16_bits(image):
        return _SIXTEEN
    is_float = image.mode == "F"
    if not np.isfinite(values).all():
        raise InputError(f"{name} has pixels that are no finite numbers: replace them, or convert it to 8 bits")
    darkest, brightest = values.min(initial=0.0), values.max(initial=0.0)
    if darkest < 0 and not is_float:  # Pillow also gives the upper half of unsigned 32 bits so
        raise InputError(f"{name} has pixels below 0 or above 2^31 - 1: convert it to 8 bits")
    most = _OVERSHOOT if is_float else 1.0
    fitting = [white for white in (_FLOAT_WHITES if is_float else _INTEGER_WHITES) if brightest <= most * white]
    if not fitting or (fitting[0] == _FULL and brightest < _DARKEST):
        raise InputError(f"{name} has values up to {brightest:g}, of a range that nobody knows: convert it to 8 bits")
    return fitting[0]


def _has_16_bits(image: Image.Image) -> bool:
    """Whether the file is of 16 bits; Pillow itself scales every deep PPM to them, and older versions give PNGs as I.

    The brightest pixel could not tell: a dark image of 16 bits may stay below 256.
    """
    if image.mode != "I":
        return image.mode.startswith("I;")
    tags: Any = getattr(image, "tag_v2", {})  # of a TIFF, which may have 16 bits with a sign
    return image.format in ("PNG", "PPM") or tags.get(ExifTags.Base.BitsPerSample) == (16,)
