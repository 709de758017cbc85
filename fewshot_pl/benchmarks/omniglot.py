"""Omniglot: 1,623 handwritten characters of 50 alphabets, 20 drawings each (Lake, Salakhutdinov, Tenenbaum 2015)."""

from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps
from torchvision import datasets
from torchvision.datasets.utils import check_integrity

from fewshot_pl.benchmarks.published_splits import published_split, warn_of_incomplete
from fewshot_pl.data.archives import ZipTree, find_tree
from fewshot_pl.data.datamodule import Split
from fewshot_pl.data.download import downloaded
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.data.image_source import ClassImages
from fewshot_pl.data.image_tree import ImageFile, ImageTree
from fewshot_pl.data.square_image import plain_colour
from fewshot_pl.errors import InputError

_ARCHIVES = ("images_background", "images_evaluation")
_SIDE = 28
_NUM_DRAWERS = 20
_SMOOTH, _NEAREST = Image.Resampling.LANCZOS, Image.Resampling.NEAREST


class Omniglot(ImageDataModule):
    """Characters of 28x28 pixels, paper 0 and ink 1; each quarter turn of a character is a separate class.

    Reads ``images_background`` and ``images_evaluation``, zipped or extracted, from ``root`` or ``root/omniglot-py``; a
    missing archive is downloaded into the latter.

    Args:
        split: ``vinyals`` trains on 1,028 characters, validates on 172 and tests on 423, as Matching Networks and
            most papers since; ``alphabets`` is the split by Omniglot's authors: 25 background alphabets to train
            on, 5 to validate on (those of ``vinyals``), and the 20 evaluation alphabets to test on.
        train_on_val: train on the training and validation characters together, for a last run with settled
            hyper-parameters; validation then measures characters that were trained on.
        rotations: turn the characters of every split, of no split, or only of ``train`` as Reptile does.
        antialias: scale drawings smoothly (Lanczos). If false, take the nearest pixel, so that images have two values:
            so do the codes of MAML, Reptile, Prototypical and Relation Networks, whichever filter they name, as Pillow
            ignores it for these files of one bit per pixel.
    """

    image_shape = (1, _SIDE, _SIDE)
    light_on_dark = True

    def __init__(
        self,
        *,
        split: Literal["vinyals", "alphabets"] = "vinyals",
        train_on_val: bool = False,
        rotations: bool | Literal["train"] = True,
        antialias: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.split = split
        self.train_on_val = train_on_val
        self.rotations = rotations
        self.antialias = antialias

    def num_rotations(self, split: str) -> int:
        return 4 if self.rotations is True or self.rotations == split else 1

    def published_classes(self, split: Split) -> list[str]:
        """The characters of a split, sorted, as ``Alphabet/characterNN``."""
        table = _characters(self.split)
        return sorted(table["train"] + table["val"]) if split == "train" and self.train_on_val else table[split]

    def own_image(self, image: Image.Image) -> NDArray[np.uint8]:
        if self.antialias:
            return super().own_image(image)
        drawing = ImageOps.invert(plain_colour(image).convert("L"))
        return np.asarray(ImageOps.fit(drawing, (_SIDE, _SIDE), _NEAREST))[None]

    def divided_classes(self, split: Split) -> list[str]:
        return [f"Omniglot/{character}" for character in self.published_classes(split)]

    def class_images(self, split: Split) -> ClassImages:
        files = _files_by_character([_archive(self.root, name) for name in _ARCHIVES])
        warn_of_incomplete({name: len(drawings) for name, drawings in files.items()}, _NUM_DRAWERS, self.root)
        for character in self.published_classes(split):
            if character not in files:
                raise InputError(
                    f"character '{character}' has no images under {self.root}: "
                    f"extract the archives {' and '.join(_ARCHIVES)} again, or put them there zipped"
                )
            yield character, np.stack([_ink(file, self.antialias) for file in files[character]])

    def source_fingerprint(self) -> dict[str, Any]:
        return {
            "format": 1,
            "split": self.split,
            "train_on_val": self.train_on_val,
            "archives": [_archive_fingerprint(self.root, name) for name in _ARCHIVES],
            **({} if self.antialias else {"antialias": False}),  # stores of older versions are still good
        }


def _characters(split: str) -> dict[str, list[str]]:
    """Sorted character names by train, val and test."""
    characters = published_split("omniglot_vinyals")
    if split == "vinyals":
        return {part: sorted(characters[part]) for part in ("train", "val", "test")}
    everything = sorted(characters["trainval"] + characters["test"])
    return {
        part: [character for character in everything if character.split("/")[0] in alphabets]
        for part, alphabets in published_split("omniglot_alphabets").items()
    }


def _placed(root: Path, name: str) -> ImageTree | None:
    """The archive or folder; None if it is, or has to be, downloaded."""
    if (tree := find_tree(root, name)) is not None:
        return tree
    return None if _download(root, name).is_file() else find_tree(root / datasets.Omniglot.folder, name)


def _download(root: Path, name: str) -> Path:
    archive: Path = root / datasets.Omniglot.folder / f"{name}.zip"
    return archive


def _archive(root: Path, name: str) -> ImageTree:
    if (tree := _placed(root, name)) is not None:
        return tree
    archive = _download(root, name)
    downloaded(
        lambda: _fetch(archive, root, name),
        archive.with_suffix(""),
        f"get {name}.zip from https://github.com/brendenlake/omniglot/tree/master/python and put it into {root}, "
        "or point --data.root at the folder that holds it",
    )
    return ZipTree(archive)


def _fetch(archive: Path, root: Path, name: str) -> None:
    # torchvision wants the folder that it extracts, even if the archive is there.
    if not check_integrity(str(archive), datasets.Omniglot.zips_md5[name]):
        datasets.Omniglot(str(root), background=name == "images_background", download=True)


def _archive_fingerprint(root: Path, name: str) -> dict[str, Any]:
    tree = _placed(root, name)
    # A download is verified by its checksum before it is read, so the checksum identifies its content.
    return {"download": datasets.Omniglot.zips_md5[name]} if tree is None else tree.fingerprint()


def _files_by_character(trees: list[ImageTree]) -> dict[str, list[ImageFile]]:
    """The drawings of each ``Alphabet/characterNN``, sorted by file name."""
    files = defaultdict(list)
    for tree in trees:
        for name in tree.names:
            if len(parts := name.split("/")) >= 3:
                files["/".join(parts[-3:-1])].append(ImageFile(tree, name))
    return files


def _ink(file: ImageFile, antialias: bool) -> NDArray[np.uint8]:
    """A drawing [1, 28, 28] with the ink at 255; files hold black ink on white."""
    drawing = ImageOps.invert(file.decoded().convert("L"))
    # Lanczos keeps thin strokes, which averaging over areas would turn grey.
    return np.asarray(drawing.resize((_SIDE, _SIDE), _SMOOTH if antialias else _NEAREST))[None]
