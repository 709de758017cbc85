"""BoxedPhotographs: the base of benchmarks of photographs with a bounding box around what they show."""

from abc import abstractmethod
from pathlib import PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.benchmarks.photographs import Photographs, Square
from fewshot_pl.data.image_tree import ImageFile
from fewshot_pl.data.square_image import whole_image
from fewshot_pl.errors import InputError

Box = tuple[int, int, int, int]  # left, upper, right and lower edge, in pixels


class BoxedPhotographs(Photographs):
    """Colour photographs; each, or what is in its box, is resized to a square as a whole.

    Args:
        bounding_box: crop each image to its box.

    Attributes:
        banner: rows of pixels that are cut off the bottom of each image.
    """

    banner: ClassVar[int] = 0

    def __init__(self, *, bounding_box: bool, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.bounding_box = bounding_box

    @abstractmethod
    def boxes(self) -> dict[str, Box]:
        """The box of each image, by file name."""

    def source_fingerprint(self) -> dict[str, Any]:
        return super().source_fingerprint() | {"bounding_box": self.bounding_box}

    def square(self) -> Square:
        boxes = self.boxes() if self.bounding_box else None

        def square(file: ImageFile) -> NDArray[np.uint8]:
            image = file.decoded()
            left, upper, right, lower = 0, 0, image.width, image.height - self.banner
            if boxes is not None:
                box = _box_of(file, boxes)
                left, upper, right, lower = box[0], box[1], min(box[2], right), min(box[3], lower)
            return whole_image(image.crop((left, upper, right, lower)), self.image_size)

        return square


def by_first_word(content: bytes) -> dict[str, str]:
    """The rest of each line, by the line's first word."""
    lines = content.decode().splitlines()
    return dict(line.strip().split(maxsplit=1) for line in lines if line.strip())


def _box_of(file: ImageFile, boxes: dict[str, Box]) -> Box:
    if (box := boxes.get(PurePosixPath(file.name).name)) is None:
        cure = "get the annotations again, or pass --data.bounding_box false"
        raise InputError(f"image {file} has no bounding box: {cure}")
    return box
