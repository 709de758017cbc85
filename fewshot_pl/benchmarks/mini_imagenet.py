"""miniImageNet: 100 classes of ImageNet with 600 images each, at 84x84 pixels (Vinyals et al. 2016)."""

import re
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot_pl.benchmarks.published_splits import published_split, warn_of_incomplete
from fewshot_pl.data.augment import standard_augmentation
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_tree import FolderTree, ImageFile, ImageTree, find_tree
from fewshot_pl.data.stored_datamodule import ClassImages
from fewshot_pl.errors import InputError

_SIDE = 84
_IMAGES_PER_CLASS = 600
# What people's copies are called; images.zip is Ravi and Larochelle's.
_NAMES = ("mini_imagenet", "mini-imagenet", "miniImagenet", "miniImageNet", "images")


class MiniImageNet(ImageDataModule):
    """miniImageNet: 64 classes to train on, 16 to validate on, 20 to test on (Ravi and Larochelle 2017).

    Reads ``mini_imagenet``, zipped or extracted, from ``root``, or ``root`` itself: a folder per class,
    ``<wnid>/*.jpg``, also where they lie in ``train``, ``val`` and ``test``; or Ravi and Larochelle's
    ``images/<wnid><number>.jpg``. A class goes to its published split, wherever its images lie.

    Images are brought to 84x84 as a whole, with their proportions changed and nothing cropped, as the papers' code
    does. Nothing is downloaded: ImageNet's licence forbids passing its images on.

    Args:
        normalise: by the mean and deviation of each channel; else pixels are in [0, 1], as in the code of MAML,
            Reptile and the LSTM meta-learner.
    """

    image_shape = (3, _SIDE, _SIDE)
    # Of the training images at 84x84, as commonly used since the code of Lee et al. 2019.
    mean = (0.4721, 0.4533, 0.4100)
    std = (0.2772, 0.2678, 0.2845)
    augmentation = staticmethod(standard_augmentation)

    def __init__(self, *, normalise: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if not normalise:
            self.mean, self.std = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)

    def class_names(self, split: Split) -> list[str]:
        """The WordNet ids of a split's classes, sorted."""
        return sorted(published_split("mini_imagenet")[split])

    def class_images(self, split: Split) -> ClassImages:
        tree = _images_below(self.root)
        files = _files_by_class(tree)
        names = self.class_names(split)
        warn_of_incomplete({name: len(files[name]) for name in names if name in files}, _IMAGES_PER_CLASS, tree.path)
        for name in names:
            if name not in files:
                raise InputError(
                    f"class '{name}' has no images in {tree.path}: it should hold them as {name}/*.jpg, or as "
                    f"{name}<number>.jpg without such folders; extract or copy it again"
                )
            yield name, np.stack([_pixels(file) for file in files[name]])

    def source_fingerprint(self) -> dict[str, Any]:
        return {"format": 1, "source": _images_below(self.root).fingerprint()}


def _images_below(root: Path) -> ImageTree:
    of_a_class = f"n{'[0-9]' * 8}*"
    if any(root.glob(of_a_class)) or any(root.glob(f"train/{of_a_class}")):  # the root is the folder itself
        return FolderTree(root)
    for name in _NAMES:
        if (tree := find_tree(root, name)) is not None:
            return tree
    raise InputError(
        f"miniImageNet is not in {root} and is not downloaded, as ImageNet's licence forbids passing its images on: "
        "get the images of ILSVRC 2012 from https://image-net.org, take the 600 of each class that "
        "https://github.com/openai/supervised-reptile lists in metadata/miniimagenet, and put them into "
        f"{root / _NAMES[0]}/<wnid>/*.jpg, as n01532829/*.jpg; or point --data.root at the folder that holds yours"
    )


def _files_by_class(tree: ImageTree) -> dict[str, list[ImageFile]]:
    """The images of each WordNet id, sorted by file name."""
    files = defaultdict(list)
    for path in sorted(tree.names, key=lambda path: path.split("/")[::-1]):
        if (match := _wnid(path)) is not None:
            files[match[0]].append(ImageFile(tree, path))
    return files


def _wnid(path: str) -> re.Match[str] | None:
    """The WordNet id that an image's folder is called by, or else that its own name starts with."""
    *_, folder, name = ("", *path.split("/"))
    return re.fullmatch(r"n\d{8}", folder) or re.match(r"n\d{8}", name)


def _pixels(file: ImageFile) -> NDArray[np.uint8]:
    """An image of any size, grey or of any colours, as [3, 84, 84]."""
    image = file.decoded().convert("RGB")
    # Lanczos, to a square whatever the proportions, as in the data script of Finn et al. 2017.
    return np.asarray(image.resize((_SIDE, _SIDE), Image.Resampling.LANCZOS)).transpose(2, 0, 1)
