"""Fungi: 89,760 photographs of 1,394 species of fungi, from a challenge of FGVC5 (Schroeder and Cui 2018)."""

import json
from collections.abc import Callable
from typing import Any

from fewshot_pl.benchmarks.photographs import Photographs
from fewshot_pl.benchmarks.placed import folder_and_file
from fewshot_pl.data.datamodule import SPLITS, Split
from fewshot_pl.data.image_source import ClassImages
from fewshot_pl.errors import InputError


class Fungi(Photographs):
    """FGVCx Fungi: 994 species to train on, 200 to validate on, 200 to test on (Triantafillou et al. 2020).

    Reads ``fungi_train_val.tgz`` and ``train_val_annotations.tgz``, or a folder ``fungi`` into which both were
    extracted, from ``root``, or ``root`` itself: ``images/<species>/*.JPG``, ``train.json`` and ``val.json``.
    Nothing is downloaded: a download means accepting terms of use. The challenge's own split of the images is not used.

    Images are resized to squares without cropping, so their aspect ratios change, as in Meta-Dataset.

    Args:
        num_queries: query images per class; with one shot, 5 use up the smallest species, which have 6 images.
        min_images: leave out species with fewer images, to allow larger tasks; the split is then not the published one.
    """

    split_name = "fungi"
    places = ("fungi_train_val", "fungi", "fgvc_fungi")
    marks = ("train.json",)
    companions = ("train_val_annotations", "train.json", "val.json")
    layout = "it should hold those that train.json and val.json list for {name} as images/<species>/*.JPG"
    num_images = 89_760
    by_hand = (
        "read the terms of use at https://github.com/visipedia/fgvcx_fungi_comp, get fungi_train_val.tgz and "
        "train_val_annotations.tgz there and put both into {root}"
    )

    def __init__(self, num_queries: int = 5, *, min_images: int = 0, **kwargs: Any) -> None:
        super().__init__(num_queries=num_queries, **kwargs)
        self.min_images = min_images

    def class_images(self, split: Split) -> ClassImages:
        largest = 0
        for name, images in super().class_images(split):
            largest = max(largest, len(images))
            if len(images) >= self.min_images:
                yield name, images
        if largest < self.min_images:
            raise InputError(f"no species of {split} has {self.min_images} images: lower --data.min_images")

    def source_fingerprint(self) -> dict[str, Any]:
        return super().source_fingerprint() | {"min_images": self.min_images}

    def class_of(self) -> Callable[[str], str | None]:
        # Some species share a name, so classes are told apart by category number, with which their names start here.
        names = {int(name[:4]): name for split in SPLITS for name in self.published_classes(split)}
        categories = self.annotation("train.json", _categories) | self.annotation("val.json", _categories)
        return lambda path: names.get(categories.get(folder_and_file(path), -1))


def _categories(content: bytes) -> dict[str, int]:
    """The category number of each image, by its folder and file."""
    table = json.loads(content)
    category = {row["image_id"]: row["category_id"] for row in table["annotations"]}
    return {folder_and_file(row["file_name"]): category[row["id"]] for row in table["images"]}
