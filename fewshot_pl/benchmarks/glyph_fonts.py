"""The ink of characters: one glyph of one of matplotlib's fonts, centred and brought to one size."""

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
_LONGEST_SIDE, _LONGEST_DIAGONAL = 60, 74  # leave room on the canvas to turn, shear and bend the ink


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


def ink(face: Face, character: str) -> NDArray[np.uint8]:
    """A character's ink [84, 84], 255 on 0, its box centred and as large as the canvas allows; all 0 if blank."""
    mask = face.font.getmask(character, mode="L")
    canvas = Image.new("L", (CANVAS_SIDE, CANVAS_SIDE))
    glyph = Image.frombytes("L", mask.size, bytes(mask)) if all(mask.size) else canvas
    box = glyph.getbbox()
    if box is not None:
        glyph = _scaled(glyph.crop(box))
        canvas.paste(glyph, ((CANVAS_SIDE - glyph.width) // 2, (CANVAS_SIDE - glyph.height) // 2))
    return np.asarray(canvas)


def _scaled(glyph: Image.Image) -> Image.Image:
    scale = min(_LONGEST_SIDE / max(glyph.size), _LONGEST_DIAGONAL / math.hypot(*glyph.size))
    width, height = (max(1, round(side * scale)) for side in glyph.size)
    return glyph.resize((width, height), Image.Resampling.BOX if scale < 1 else Image.Resampling.BICUBIC)
