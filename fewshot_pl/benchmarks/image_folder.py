"""ImageFolder: a user's own images, one folder per class."""

from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from fewshot_pl.benchmarks.class_folders import ClassFolders, SplitRatio, class_folders, no_image
from fewshot_pl.data.augment import standard_augmentation
from fewshot_pl.data.datamodule import SPLITS, Split
from fewshot_pl.data.episode_dataset import Sampler
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_source import ClassImages
from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.data.square_image import IMAGENET_MEAN, IMAGENET_STD, Channels
from fewshot_pl.errors import InputError
from fewshot_pl.printable import first_of, printable


class ImageFolder(ImageDataModule):
    """Your own images: ``root/<class>/*``, or ``root/{train,val,test}/<class>/*``, of any size and format.

    Without split folders, classes are split by ``split_ratio`` and ``split_seed``; adding, removing or renaming one
    moves hardly any other between splits. ``val/`` may also be called ``valid/`` or ``validation/``; without it,
    validation takes its share of the classes in ``train/``. Evaluation alone needs only ``test/``.
    Every image is turned upright, resized to ``image_size`` on its shorter side and cropped around its centre, unless
    ``whole_images`` says otherwise; transparent parts become white. Files whose extension belongs to no image format
    are ignored; so are photographs in a format that Pillow does not read, as ``.heic``, with a warning.

    Args:
        image_size: height and width of the images after resizing.
        channels: 3 for colour, 1 for grey.
        whole_images: resize an image to a square as a whole, so that its proportions change, instead of cropping it.
        light_on_dark: invert the images, so that dark ink on paper becomes light, as in Omniglot and Glyphs.
        split_ratio: shares of the classes for train, val and test.
        split_seed: seed of the class split; separate from ``seed``, so that a trained model meets the same test
            classes under every seed.
    """

    augmentation = staticmethod(standard_augmentation)

    def __init__(
        self,
        *,
        image_size: int = 84,
        channels: Channels = 3,
        whole_images: bool = False,
        light_on_dark: bool = False,
        split_ratio: SplitRatio = (0.64, 0.16, 0.20),
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.channels = channels
        self.whole_images = whole_images
        self.light_on_dark = light_on_dark
        self.split_ratio = split_ratio
        self.split_seed = split_seed
        self.mean, self.std = (IMAGENET_MEAN, IMAGENET_STD) if channels == 3 else ((0.5,), (0.5,))

    @property
    def image_shape(self) -> tuple[int, int, int]:
        return (self.channels, self.image_size, self.image_size)

    def prepare_data(self) -> None:
        for split, folders in self._classes.items():
            if folders:  # evaluation works without classes to train on
                self._stored(split)

    def sampler(self, split: str) -> Sampler:
        _check_enough(self._classes, split, self.fewest_ways(split), self.root)
        return super().sampler(split)

    def divided_classes(self, split: Split) -> list[str]:
        return [printable(folder.name) for folder in self._classes[split]]

    def class_images(self, split: Split) -> ClassImages:
        folders = self._classes
        _check_enough(folders, split, 1, self.root)
        trees = [FolderTree(folder) for folder in folders[split]]
        _warn_of_undecoded([f"{tree.path}/{name}" for tree in trees for name in tree.undecoded])
        return map(self._one_class, trees)

    def source_fingerprint(self) -> dict[str, Any]:
        trees = {split: map(FolderTree, self._classes[split]) for split in SPLITS}
        return {
            "format": 3,
            "shape": self.image_shape,
            "classes": {split: [tree.fingerprint_of(tree.names) for tree in trees[split]] for split in SPLITS},
            # Stores of older versions are still good.
            **({"whole_images": True} if self.whole_images else {}),
            **({"light_on_dark": True} if self.light_on_dark else {}),
        }

    @cached_property
    def _classes(self) -> ClassFolders:
        return class_folders(self.root, self.split_ratio, self.split_seed, self.cache_dir)

    def _one_class(self, tree: FolderTree) -> tuple[str, NDArray[np.uint8]]:
        if not tree.names:
            raise no_image(tree)
        files = (ImageFile(tree, name) for name in tree.names)
        images = [self.own_image(file.decoded(at_least=2 * self.image_size)) for file in files]
        return printable(tree.path.name), np.stack(images)


def _warn_of_undecoded(paths: list[str]) -> None:
    if paths:
        rank_zero_warn(f"Left out, as no image that can be read: {first_of(paths)}: convert to JPEG")


def _check_enough(folders: ClassFolders, split: str, num_ways: int, root: Path) -> None:
    counts: dict[str, int] = {part: len(classes) for part, classes in folders.items()}
    if counts[split] < num_ways:
        without = (
            "" if split == "train" else f"; to train without {split} classes, pass --trainer.limit_{split}_batches 0"
        )
        raise InputError(
            f"{root} gives {counts['train']} train, {counts['val']} val and {counts['test']} test classes, and {split} "
            f"needs at least {num_ways}: add classes, make train/, val/ and test/ folders of classes, "
            f"lower num_ways (or min_ways, where tasks differ in size), or change split_ratio{without}"
        )
