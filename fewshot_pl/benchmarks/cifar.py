"""CIFAR-FS and FC100: two splits of CIFAR-100's classes, each class with 600 images of 32x32 pixels."""

from collections.abc import Callable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from torchvision import datasets

from fewshot_pl.benchmarks.array_pickle import unpickled_arrays
from fewshot_pl.benchmarks.placed import files_by_class, folder_name
from fewshot_pl.benchmarks.published_splits import published_split, whole_classes
from fewshot_pl.data.archives import find_tree
from fewshot_pl.data.augment import standard_augmentation
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.download import downloaded
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_source import ClassImages
from fewshot_pl.data.image_tree import FolderTree, ImageFile, ImageTree
from fewshot_pl.errors import InputError

_SIDE = 32
_IMAGES_PER_CLASS = 600
_PLACES = ("cifar100", "cifar-fs", "CIFAR-FS", "cifar_fs")
# In which class folders lie: of CIFAR-100, of CIFAR-FS as published, and of copies that are divided already.
_PARTS = ("train", "test", "data", "val", "meta-train", "meta-val", "meta-test")


class _CIFAR100(ImageDataModule):
    """CIFAR-100 with its training and test images pooled and its classes split.

    Reads ``cifar100/{train,test}/<class>/*.png``, as an archive or extracted, from ``root``, or ``root`` itself; or
    CIFAR-FS as published, ``cifar100/data/<class>/*.png``, or divided, ``cifar-fs/{train,val,test}/<class>/*.png``. A
    class goes to its published split, wherever its images lie. If nothing of this is there, CIFAR-100 is downloaded
    into ``root/cifar-100-python``.
    """

    image_shape = (3, _SIDE, _SIDE)
    # Of CIFAR-100's 50,000 training images, as commonly used.
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    augmentation = staticmethod(standard_augmentation)
    split_name: ClassVar[str]

    def published_classes(self, split: Split) -> list[str]:
        """The classes of a split, sorted."""
        return sorted(published_split(self.split_name)[split])

    def divided_classes(self, split: Split) -> list[str]:
        return [f"CIFAR-100/{name}" for name in self.published_classes(split)]

    def class_images(self, split: Split) -> ClassImages:
        names = self.published_classes(split)
        tree = _find_cifar(self.root)
        if tree is None:
            return _from_download(self.root, names)
        return _from_tree(tree, _class_in_a_part if tree.path == self.root else folder_name, names)

    def source_fingerprint(self) -> dict[str, Any]:
        tree = _find_cifar(self.root)
        # A download is verified by its checksum before it is read, so the checksum identifies its content.
        source = {"download": datasets.CIFAR100.tgz_md5} if tree is None else tree.fingerprint()
        return {"format": 1, "split": self.split_name, "source": source}


class CIFARFS(_CIFAR100):
    """CIFAR-FS: 64 classes to train on, 16 to validate on, 20 to test on, drawn at random (Bertinetto et al. 2019)."""

    split_name = "cifar_fs"


class FC100(_CIFAR100):
    """FC100: 60, 20 and 20 classes from superclasses that do not overlap (Oreshkin et al. 2018)."""

    split_name = "fc100"


def _find_cifar(root: Path) -> ImageTree | None:
    trees = (find_tree(root, name) for name in _PLACES)
    if (tree := next(filter(None, trees), None)) is not None:
        return tree
    return FolderTree(root) if _holds_most_classes(root) else None


def _holds_most_classes(root: Path) -> bool:
    """Whether ``root`` is the folder itself; a few classes, as apple and orange, may be a user's own images."""
    classes = [name for names in published_split("cifar_fs").values() for name in names]
    held = [name for name in classes if any((root / part / name).is_dir() for part in _PARTS)]
    return 2 * len(held) > len(classes)


def _class_in_a_part(path: str) -> str | None:
    """The class of a file in ``<part>/<class>``; what else lies in ``root`` is not CIFAR-100's."""
    folder = PurePosixPath(path).parent
    return folder.name if str(folder.parent) in _PARTS else None


def _from_tree(
    tree: ImageTree, class_of: Callable[[str], str | None], names: list[str]
) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    layout = "it should hold them in train/{name} and test/{name}, or in data/{name}"
    files = files_by_class(tree, class_of)
    for name, pooled in whole_classes(names, files, tree.path, layout, _IMAGES_PER_CLASS):
        yield name, np.stack([_pixels(file) for file in pooled])


def _pixels(file: ImageFile) -> NDArray[np.uint8]:
    """An image as [3, 32, 32]."""
    image = file.decoded().convert("RGB")
    if image.size != (_SIDE, _SIDE):
        raise InputError(
            f"image {file} is {image.width}x{image.height} and CIFAR-100's are {_SIDE}x{_SIDE}: use the original images"
        )
    return np.asarray(image).transpose(2, 0, 1)


def _from_download(root: Path, names: list[str]) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """As ``_from_tree``, in the same order, from torchvision's download."""
    folder = root / datasets.CIFAR100.base_folder
    downloaded(
        lambda: datasets.CIFAR100(str(root), download=True),
        folder,
        "get cifar-100-python.tar.gz from https://www.cs.toronto.edu/~kriz/cifar.html and extract it into "
        f"{root}, or point --data.root at a folder that holds cifar100.zip or cifar100/",
    )
    parts = [_unpickled(folder / part) for part in ("train", "test")]
    class_of_label = _unpickled(folder / "meta")["fine_label_names"]
    classes = np.asarray([class_of_label[label] for part in parts for label in part["fine_labels"]])
    filenames = np.asarray([filename for part in parts for filename in part["filenames"]])
    images = np.concatenate([part["data"] for part in parts]).reshape(-1, 3, _SIDE, _SIDE)
    for name in names:
        members = np.flatnonzero(classes == name)
        yield name, images[members[np.argsort(filenames[members], kind="stable")]]


def _unpickled(path: Path) -> dict[str, Any]:
    """The content of a CIFAR file, whose checksum torchvision has verified."""
    with path.open("rb") as file:
        content: dict[str, Any] = unpickled_arrays(file, path)
    return content
