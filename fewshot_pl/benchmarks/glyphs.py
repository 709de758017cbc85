"""Glyphs: the embedded default benchmark, drawn from matplotlib's fonts; nothing is downloaded."""

import unicodedata
from typing import Any

import numpy as np
import PIL
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_info

from fewshot_pl.benchmarks.glyph_classes import glyph_classes
from fewshot_pl.benchmarks.glyph_drawing import SAMPLE_SIDE, class_samples
from fewshot_pl.benchmarks.glyph_fonts import font_files
from fewshot_pl.data.datamodule import ClassImages, EpisodicDataModule, Split

_DRAWING = 1  # raised whenever the code gives other classes or images, so that older caches are rebuilt
_NUM_SAMPLES = 20  # as in Omniglot


class Glyphs(EpisodicDataModule):
    """More than 1,000 characters, 20 samples of 28x28 each, in the shape of Omniglot."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, SAMPLE_SIDE, SAMPLE_SIDE)

    def class_images(self, split: Split) -> ClassImages:
        for glyphs in glyph_classes()[split]:
            yield glyphs.name, class_samples(glyphs, _NUM_SAMPLES)

    def source_fingerprint(self) -> dict[str, Any]:
        return {
            "drawing": _DRAWING,
            "num_samples": _NUM_SAMPLES,
            "fonts": {file.name: file.stat().st_size for file in font_files()},
            "pillow": PIL.__version__,
            "unicode": unicodedata.unidata_version,
        }
