"""Which files are images that Pillow decodes, and which are photographs that it does not."""

import os
from collections.abc import Sequence
from pathlib import PurePosixPath

from PIL import Image

Image.init()
# Without formats that need another program or have no decoder; EPS is itself a program, run by Ghostscript.
FORMATS = [kind for kind in Image.ID if kind not in {"EPS", "WMF", "MPEG", "BUFR", "GRIB", "HDF5", "FPX", "MIC"}]
_DECODED = {end for end, kind in Image.registered_extensions().items() if kind in FORMATS}
_OF_PHONES = {".heic", ".heif", ".hif", ".avif", ".jxl"}
_OF_CAMERAS = {".3fr", ".arw", ".cr2", ".cr3", ".crw", ".dng", ".nef", ".nrw", ".orf", ".pef", ".raf", ".rw2", ".srw"}
_UNDECODED = (_OF_PHONES | _OF_CAMERAS | {".svg", ".eps", ".webp"}) - _DECODED  # some depend on how Pillow was built


def is_decoded(name: str) -> bool:
    """Whether a file has the extension of an image that Pillow decodes."""
    return extension(name) in _DECODED


def undecoded(names: Sequence[str]) -> list[str]:
    """The files that are photographs in a format that Pillow does not decode, as .heic, without a decoded copy."""
    found = [name for name in names if extension(name) in _UNDECODED]
    copied = {PurePosixPath(name).with_suffix("") for name in names if is_decoded(name)} if found else set()
    return [name for name in found if PurePosixPath(name).with_suffix("") not in copied]


def extension(name: str) -> str:
    """The extension of a path with its dot, in lower case."""
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called 60,000 times
