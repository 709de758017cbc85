"""Photographs: the base of benchmarks of photographs of any size, resized to squares."""

from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.benchmarks.placed import PlacedDataModule, files_by_class, folder_name
from fewshot_pl.benchmarks.published_splits import warn_of_incomplete_total, whole_classes
from fewshot_pl.data.augment import standard_augmentation
from fewshot_pl.data.datamodule import SPLITS, Split
from fewshot_pl.data.image_source import ClassImages
from fewshot_pl.data.image_tree import ImageFile
from fewshot_pl.data.square_image import IMAGENET_MEAN, IMAGENET_STD, whole_image

Square = Callable[[ImageFile], NDArray[np.uint8]]


class Photographs(PlacedDataModule):
    """Colour photographs, each resized to a square without cropping, so its aspect ratio changes.

    Args:
        image_size: height and width of the images after resizing.
        normalise: normalise by the mean and deviation of each channel; else pixels are in [0, 1].

    Attributes:
        layout: for a message, where the images of a class should be, with ``{name}`` for its name.
        images_per_class: the published number; None where it differs between classes.
        num_images: the published number in all classes, if only that is known.
    """

    mean = IMAGENET_MEAN
    std = IMAGENET_STD
    whole_images = True
    augmentation = staticmethod(standard_augmentation)
    layout: ClassVar[str]
    images_per_class: ClassVar[int | None] = None
    num_images: ClassVar[int | None] = None

    def __init__(self, *, image_size: int = 84, normalise: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        if not normalise:
            self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (3, self.image_size, self.image_size)

    def class_images(self, split: Split) -> ClassImages:
        files = files_by_class(self.tree, self.class_of())
        if self.num_images is not None:
            count = sum(len(files[name]) for part in SPLITS for name in self.published_classes(part) if name in files)
            warn_of_incomplete_total(count, self.num_images, self.tree.path)
        square = self.square()
        names = self.published_classes(split)
        for name, of_class in whole_classes(names, files, self.tree.path, self.layout, self.images_per_class):
            yield name, np.stack([square(file) for file in of_class])

    def source_fingerprint(self) -> dict[str, Any]:
        return super().source_fingerprint() | {"image_size": self.image_size}

    def class_of(self) -> Callable[[str], str | None]:
        """The function from an image's path to its class or None; here the name of its folder."""
        return folder_name

    def square(self) -> Square:
        """The function from a file to its pixels, uint8 [3, image_size, image_size]."""
        return lambda file: whole_image(file.decoded(at_least=2 * self.image_size), self.image_size)
