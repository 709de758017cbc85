"""ImageFolder: a user's own images, one folder per class."""

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pytorch_lightning.utilities import rank_zero_warn

from fewshot_pl.data.augment import standard_augmentation
from fewshot_pl.data.datamodule import SPLITS, Split
from fewshot_pl.data.episode_dataset import Sampler
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_tree import FolderTree, ImageFile
from fewshot_pl.data.square_image import IMAGENET_MEAN, IMAGENET_STD, Channels, read_square
from fewshot_pl.data.stored_datamodule import ClassImages
from fewshot_pl.errors import InputError
from fewshot_pl.printable import printable

SplitRatio = tuple[float, float, float]
ClassFolders = dict[Split, list[Path]]


class ImageFolder(ImageDataModule):
    """Your own images: ``root/<class>/*``, or ``root/{train,val,test}/<class>/*``, of any size and format.

    Without split folders the classes are divided by ``split_ratio`` and ``split_seed``. With ``train/`` but no
    ``val/``, validation takes its share of the classes in ``train/``. Evaluation alone needs only ``test/``.
    Every image is turned upright, brought to ``image_size`` on its shorter side and cropped around its centre;
    transparent parts become white. Files whose extension belongs to no image format are ignored.

    Args:
        image_size: height and width that the images are brought to.
        channels: 3 for colour, 1 for grey.
        split_ratio: shares of the classes for train, val and test.
        split_seed: of the division into classes; apart from ``seed``, so that a trained model meets the same
            test classes under every seed.
    """

    augmentation = staticmethod(standard_augmentation)

    def __init__(
        self,
        *,
        image_size: int = 84,
        channels: Channels = 3,
        split_ratio: SplitRatio = (0.64, 0.16, 0.20),
        split_seed: int = 0,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.image_size = image_size
        self.channels = channels
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

    def class_images(self, split: Split) -> ClassImages:
        folders = self._classes
        _check_enough(folders, split, 1, self.root)
        return (self._one_class(folder) for folder in folders[split])

    def source_fingerprint(self) -> dict[str, Any]:
        folders = self._classes
        return {
            "format": 1,
            "shape": self.image_shape,
            "classes": {split: [str(folder.relative_to(self.root)) for folder in folders[split]] for split in SPLITS},
            "files": FolderTree(self.root).fingerprint(),
        }

    @cached_property
    def _classes(self) -> ClassFolders:
        return class_folders(self.root, self.split_ratio, self.split_seed)

    def _one_class(self, folder: Path) -> tuple[str, NDArray[np.uint8]]:
        tree = FolderTree(folder)
        if not tree.names:
            raise InputError(f"class folder {folder} holds no image: add images or remove the folder")
        images = [read_square(ImageFile(tree, name), self.image_size, self.channels) for name in tree.names]
        return printable(folder.name), np.stack(images)


def class_folders(root: Path, split_ratio: SplitRatio, split_seed: int) -> ClassFolders:
    """The class folders of each split, sorted by name; a split may have none.

    Raises:
        InputError: ``root`` is not there or holds no class folders, or the ratio is not one.
    """
    if not root.is_dir():
        raise InputError(
            f"there is no folder {root}: point --data.root at a folder with one folder of images per class"
        )
    if len(split_ratio) != 3 or min(split_ratio) < 0 or sum(split_ratio) <= 0:
        raise InputError(f"split_ratio must be three shares for train, val and test, not {split_ratio}")
    given = {split: list(_folders(root / split)) for split in SPLITS}
    if not any(given.values()):
        classes = list(_folders(root))
        if not classes:
            raise InputError(
                f"{root} holds no folders: make one folder per class in it and put the class's images there"
            )
        return _divided(classes, split_ratio, split_seed)
    if given["train"] and not given["val"] and split_ratio[1] > 0:
        given |= _divided(given["train"], (*split_ratio[:2], 0.0), split_seed) | {"test": given["test"]}
    _warn_of_shared_classes(given, root)
    return given


def _folders(parent: Path) -> Iterator[Path]:
    if parent.is_dir():
        yield from sorted(path for path in parent.iterdir() if path.is_dir() and not path.name.startswith((".", "__")))


def _divided(classes: list[Path], ratio: SplitRatio, seed: int) -> ClassFolders:
    order = np.random.default_rng(seed).permutation(len(classes))
    ends = np.rint(np.cumsum(ratio) / sum(ratio) * len(classes)).astype(int)
    parts = np.split(order, ends[:2])
    return {split: [classes[index] for index in sorted(part)] for split, part in zip(SPLITS, parts, strict=True)}


def _check_enough(folders: ClassFolders, split: str, num_ways: int, root: Path) -> None:
    counts: dict[str, int] = {part: len(classes) for part, classes in folders.items()}
    if counts[split] < num_ways:
        raise InputError(
            f"{root} gives {counts['train']} train, {counts['val']} val and {counts['test']} test classes, and {split} "
            f"needs at least {num_ways}: add classes, make train/, val/ and test/ folders of classes, "
            "lower num_ways (or min_ways, where tasks differ in size), or change split_ratio"
        )


def _warn_of_shared_classes(folders: ClassFolders, root: Path) -> None:
    names = {split: {folder.name for folder in folders[split]} for split in SPLITS}
    if shared := sorted(names["train"] & (names["val"] | names["test"])):
        rank_zero_warn(
            f"class '{printable(shared[0])}' (and {len(shared) - 1} more) is in train/ and in val/ or test/ of {root}: "
            "few-shot figures are about classes that training never saw"
        )
