"""CUB: Caltech-UCSD Birds 200-2011, 11,788 photographs of 200 species of birds (Wah et al. 2011)."""

from collections.abc import Callable
from pathlib import PurePosixPath
from typing import Any

from fewshot_pl.benchmarks.boxed_photographs import Box, BoxedPhotographs, by_first_word
from fewshot_pl.benchmarks.placed import folder_name
from fewshot_pl.data.download import Remote

_PAGE = "https://data.caltech.edu/records/65de6-vp158"


class CUB(BoxedPhotographs):
    """CUB-200-2011: 100 classes to train on, 50 to validate on, 50 to test on (Chen et al. 2019, "A Closer Look").

    Reads ``CUB_200_2011``, as an archive or extracted, from ``root``, or ``root`` itself: ``images/<class>/*.jpg`` with
    ``images.txt`` and ``bounding_boxes.txt``; if that is missing, ``CUB_200_2011.tgz`` is downloaded.

    Images, or what is in their bounding boxes, are resized to squares as a whole, so their aspect ratios change.
    Differs from the code of Chen et al.: at test it cuts off a border, the outer 13% of height and width.

    Args:
        bounding_box: crop each image to the box around the bird, which makes the task easier; papers differ on this.
    """

    split_name = "cub"
    places = ("CUB_200_2011", "cub", "CUB")
    marks = ("images/001.*", "001.*")
    remotes = (
        Remote(
            "CUB_200_2011.tgz",
            "97eceeb196236b17998738112f37df78",
            (f"{_PAGE}/files/CUB_200_2011.tgz", "https://zenodo.org/record/8000562/files/CUB_200_2011.tgz"),
        ),
    )
    layout = "it should hold them as images/{name}/*.jpg"
    num_images = 11_788
    by_hand = f"get CUB_200_2011.tgz from {_PAGE} and put it into {{root}}"

    def __init__(self, *, bounding_box: bool = False, **kwargs: Any) -> None:
        super().__init__(bounding_box=bounding_box, **kwargs)

    def class_of(self) -> Callable[[str], str | None]:
        # segmentations.tgz, which people extract beside the images, has folders of the same names.
        return lambda path: None if "segmentations" in path.split("/") else folder_name(path)

    def boxes(self) -> dict[str, Box]:
        boxes = self.annotation("bounding_boxes.txt", _boxes)
        paths = self.annotation("images.txt", by_first_word)
        return {PurePosixPath(path).name: boxes[number] for number, path in paths.items() if number in boxes}


def _boxes(content: bytes) -> dict[str, Box]:
    """The box of each image by its number, from its left and upper edge, width and height."""
    boxes = {}
    for number, values in by_first_word(content).items():
        left, upper, width, height = (round(float(value)) for value in values.split())
        boxes[number] = (left, upper, left + width, upper + height)
    return boxes
