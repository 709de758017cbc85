"""Glyphs: the built-in default benchmark, drawn from matplotlib's fonts; nothing is downloaded."""

import unicodedata
from typing import Any

import PIL

from fewshot_pl.benchmarks.glyph_classes import glyph_classes
from fewshot_pl.benchmarks.glyph_drawing import SAMPLE_SIDE, class_samples
from fewshot_pl.benchmarks.glyph_fonts import font_files
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_source import ClassImages

_DRAWING = 1  # increased whenever the code gives other classes or images, so that older caches are rebuilt
_NUM_SAMPLES = 20  # as in Omniglot
_CLASSES_AT_ONCE = 32  # few large operations, in some 200 MB


class Glyphs(ImageDataModule):
    """Some 1,370 characters of many scripts, 20 samples of 28x28 each: a stand-in for Omniglot that needs no download.

    Every sample is drawn in a random face with random strokes and distortions. Characters that look the same are one
    class, and the scripts of validation and test are not in training. Drawn once, in well under a minute.
    """

    light_on_dark = True

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (1, SAMPLE_SIDE, SAMPLE_SIDE)

    def class_images(self, split: Split) -> ClassImages:
        classes = glyph_classes()[split]
        for start in range(0, len(classes), _CLASSES_AT_ONCE):
            some = classes[start : start + _CLASSES_AT_ONCE]
            yield from zip((one.name for one in some), class_samples(some, _NUM_SAMPLES), strict=True)

    def source_fingerprint(self) -> dict[str, Any]:
        return {
            "drawing": _DRAWING,
            "num_samples": _NUM_SAMPLES,
            "fonts": {file.name: file.stat().st_size for file in font_files()},
            "pillow": PIL.__version__,
            "unicode": unicodedata.unidata_version,
        }
