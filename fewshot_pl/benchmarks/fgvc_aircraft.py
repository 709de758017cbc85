"""FGVC-Aircraft: 10,000 photographs of 100 variants of aircraft (Maji et al. 2013)."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from fewshot_pl.benchmarks.boxed_photographs import Box, BoxedPhotographs, by_first_word
from fewshot_pl.data.download import Remote

_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/fgvc-aircraft"


class FGVCAircraft(BoxedPhotographs):
    """FGVC-Aircraft: 70 variants to train on, 15 to validate on, 15 to test on (Triantafillou et al. 2020).

    Reads ``fgvc-aircraft-2013b``, as an archive or extracted, from ``root``, or ``root`` itself: ``data/images/*.jpg``
    with ``images_variant_*.txt`` and ``images_box.txt``; if that is missing, it is downloaded (2.75 GB). The
    authors' own split of the images is not used: all 100 images of a variant are in its split.

    What is in the bounding box is resized to a square, so its aspect ratio changes, as in Meta-Dataset.

    Args:
        bounding_box: crop each image to the box around the aircraft; else only cut off the banner at the bottom.
    """

    split_name = "fgvc_aircraft"
    places = ("fgvc-aircraft-2013b", "fgvc_aircraft", "aircraft")
    marks = ("data/images_variant_test.txt", "images_variant_test.txt")
    remotes = (
        Remote(
            "fgvc-aircraft-2013b.tar.gz",
            "d4acdd33327262359767eeaa97a4f732",
            (f"{_PAGE}/archives/fgvc-aircraft-2013b.tar.gz",),
        ),
    )
    layout = "it should hold those that data/images_variant_*.txt list for {name} in data/images"
    images_per_class = 100
    by_hand = f"get fgvc-aircraft-2013b.tar.gz from {_PAGE}/ and put it into {{root}}"

    banner = 20  # with the copyright

    def __init__(self, *, bounding_box: bool = True, **kwargs: Any) -> None:
        super().__init__(bounding_box=bounding_box, **kwargs)

    def class_of(self) -> Callable[[str], str | None]:
        variants: dict[str, str] = {}
        for part in ("train", "val", "test"):
            variants |= self.annotation(f"images_variant_{part}.txt", by_first_word)
        return lambda path: variants.get(PurePosixPath(path).stem)

    def boxes(self) -> dict[str, Box]:
        return self.annotation("images_box.txt", _boxes)


def _boxes(content: bytes) -> dict[str, Box]:
    """The box of each image by file name; the annotations count pixels from 1 and include both ends."""
    boxes = {}
    for image, corners in by_first_word(content).items():
        left, upper, right, lower = (int(value) for value in corners.split())
        boxes[f"{image}.jpg"] = (left - 1, upper - 1, right, lower)
    return boxes
