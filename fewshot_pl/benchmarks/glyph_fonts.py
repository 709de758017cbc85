"""The ink of characters: one glyph from one of matplotlib's fonts, centred and scaled to one size."""

import math
from functools import cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
import numpy as np
from fontTools.ttLib import TTFont
from numpy.typing import NDArray
from PIL import Image, ImageFont

CANVAS_SIDE = 84  # three times that of a sample, so that strokes change width by fractions of its pixels
_FONT_SIZE = 80
_LONGEST_SIDE, _LONGEST_DIAGONAL = 60, 72  # leave room on the canvas to turn, shear and bend the ink


class Face(NamedTuple):
    """A font file and the characters it has glyphs for."""

    name: str
    font: ImageFont.FreeTypeFont
    characters: frozenset[str]


def font_files() -> list[Path]:
    """The DejaVu and STIX fonts of the installed matplotlib, in alphabetical order."""
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    return sorted([*folder.glob("DejaVu*.ttf"), *folder.glob("STIX*.ttf")])


@cache
def faces() -> dict[str, Face]:
    """The faces of ``font_files`` by name ("DejaVuSans-Bold")."""
    return {file.stem: _face(file) for file in font_files()}


def _face(file: Path) -> Face:
    with TTFont(file, lazy=True) as tables:
        characters = frozenset(map(chr, tables.getBestCmap()))
    # The basic layout draws a character the same with and without the optional raqm library.
    return Face(file.stem, ImageFont.truetype(file, _FONT_SIZE, layout_engine=ImageFont.Layout.BASIC), characters)


def ink(face: Face, character: str, proportions: float = 1.0) -> NDArray[np.uint8]:
    """The ink [84, 84] of a character, 255 on 0, centred and as large as the canvas allows; all 0 if blank.

    Args:
        face: the face that the character is taken from.
        character: one that the face holds.
        proportions: power to which width : height is raised; below 1, slim and wide characters differ less.
    """
    canvas = Image.new("L", (CANVAS_SIDE, CANVAS_SIDE))
    glyph = _glyph(face.font, character)
    if 0 < max(glyph.size) < _LONGEST_SIDE // 2:  # a dot, say, would be blurred: draw it larger
        glyph = _glyph(face.font.font_variant(size=_FONT_SIZE * _LONGEST_SIDE // max(glyph.size)), character)
    if all(glyph.size):
        glyph = _resized(glyph, proportions)
        canvas.paste(glyph, ((CANVAS_SIDE - glyph.width) // 2, (CANVAS_SIDE - glyph.height) // 2))
    return np.asarray(canvas)


def _glyph(font: ImageFont.FreeTypeFont, character: str) -> Image.Image:
    """The ink of a character, cut out; of size 0 if it is blank."""
    mask = font.getmask(character, mode="L")
    picture = Image.frombytes("L", mask.size, bytes(mask)) if all(mask.size) else Image.new("L", (0, 0))
    return picture.crop(picture.getbbox() or (0, 0, 0, 0))


def _resized(glyph: Image.Image, proportions: float) -> Image.Image:
    sides = [side**proportions for side in glyph.size]
    scale = min(_LONGEST_SIDE / max(sides), _LONGEST_DIAGONAL / math.hypot(*sides))
    width, height = (max(1, round(side * scale)) for side in sides)
    return glyph.resize((width, height), Image.Resampling.BILINEAR)


def grown(ink: NDArray[np.uint8], width: int) -> NDArray[np.uint8]:
    """Ink [..., H, W] grown by ``width`` pixels on each side; the rim must be blank that far."""
    for axis in (-2, -1):
        narrow, ink = ink, ink.copy()
        for step in (*range(-width, 0), *range(1, width + 1)):
            np.maximum(ink, np.roll(narrow, step, axis), out=ink)
    return ink
