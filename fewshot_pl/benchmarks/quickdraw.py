"""Quickdraw: drawings of 345 things, each made in 20 seconds by one of millions of people (Ha and Eck 2017)."""

import io
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.benchmarks.placed import PlacedDataModule
from fewshot_pl.benchmarks.published_splits import whole_classes
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.image_source import ClassImages
from fewshot_pl.data.image_tree import FolderTree, ImageTree
from fewshot_pl.errors import InputError

_SIDE = 28


class Quickdraw(PlacedDataModule):
    """Quick, Draw!: 241 classes to train on, 52 to validate on, 52 to test on (Triantafillou et al. 2020).

    Drawings of 28x28 pixels, paper 0 and ink 1. Reads ``quickdraw`` or ``numpy_bitmap``, as an archive or
    extracted, from ``root``, or ``root`` itself: Google's bitmaps, one ``<class>.npy`` for each class. Nothing is
    downloaded: they are 40 GB.

    Args:
        images_per_class: drawings taken from each class, evenly spread over its file; None for all 50 million.
    """

    image_shape = (1, _SIDE, _SIDE)
    light_on_dark = True
    split_name = "quickdraw"
    places = ("quickdraw", "numpy_bitmap")
    marks = ("angel.npy", "full_numpy_bitmap_angel.npy", "full%2Fnumpy_bitmap%2Fangel.npy")
    by_hand = (
        "get the numpy bitmaps from https://github.com/googlecreativelab/quickdraw-dataset, as by gsutil -m cp "
        "'gs://quickdraw_dataset/full/numpy_bitmap/*.npy' {root}/quickdraw"
    )

    def __init__(self, *, images_per_class: int | None = 1000, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if images_per_class is not None and images_per_class < 1:
            raise InputError(f"--data.images_per_class must be at least 1 or null, not {images_per_class}")
        self.images_per_class = images_per_class

    def class_images(self, split: Split) -> ClassImages:
        files = {_class_name(path): [path] for path in self.tree.files if path.endswith(".npy")}
        layout = "it should hold them as {name}.npy"
        for name, (path,) in whole_classes(self.published_classes(split), files, self.tree.path, layout):
            yield name, self._drawings(path)

    def source_fingerprint(self) -> dict[str, Any]:
        return super().source_fingerprint() | {"images_per_class": self.images_per_class}

    def _drawings(self, path: str) -> NDArray[np.uint8]:
        """Drawings of one class, [n, 1, 28, 28]."""
        bitmaps = _bitmaps(self.tree, path)
        if self.images_per_class is not None and self.images_per_class < len(bitmaps):
            bitmaps = bitmaps[np.arange(self.images_per_class) * len(bitmaps) // self.images_per_class]
        return np.asarray(bitmaps).reshape(-1, 1, _SIDE, _SIDE)


def _class_name(path: str) -> str:
    # A browser or a tool may keep the encoding of the address.
    return PurePosixPath(unquote(path)).stem.removeprefix("full_numpy_bitmap_").replace("_", " ")


def _bitmaps(tree: ImageTree, path: str) -> NDArray[np.uint8]:
    """The bitmaps of a file, [n, 784]; in a folder, only those that are used are read."""
    bitmaps: NDArray[np.uint8]
    try:
        if isinstance(tree, FolderTree):
            bitmaps = np.load(tree.path / path, mmap_mode="r", allow_pickle=False)
        else:
            bitmaps = np.load(io.BytesIO(tree.read(path)), allow_pickle=False)
    except (ValueError, EOFError, OSError) as error:
        raise InputError(f"{tree.path}/{path} is not a whole .npy file ({error}): get it again") from error
    if bitmaps.dtype != np.uint8 or bitmaps.ndim != 2 or bitmaps.shape[1] != _SIDE**2:
        raise InputError(
            f"{tree.path}/{path} holds {bitmaps.dtype} {list(bitmaps.shape)} in place of uint8 [n, {_SIDE**2}]: "
            "get the file of numpy bitmaps"
        )
    return bitmaps
