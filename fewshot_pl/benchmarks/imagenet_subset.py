"""ImageNetSubset: the base of benchmarks whose classes are some of ImageNet's, named by their WordNet ids."""

import re
from collections.abc import Callable

from fewshot_pl.benchmarks.photographs import Photographs
from fewshot_pl.data.datamodule import Split

_OF_A_CLASS = f"n{'[0-9]' * 8}*"


class ImageNetSubset(Photographs):
    """Photographs as ``<wnid>/*.jpg``, also below ``train``, ``val`` or ``test``, or as ``<wnid><number>.jpg``."""

    marks = (_OF_A_CLASS, f"train/{_OF_A_CLASS}")
    layout = "it should hold them as {name}/*.jpg, or as {name}<number>.jpg without such folders"

    def divided_classes(self, split: Split) -> list[str]:
        return [f"ImageNet/{wnid}" for wnid in self.published_classes(split)]

    def class_of(self) -> Callable[[str], str | None]:
        return wnid_of


def wnid_of(path: str) -> str | None:
    """The WordNet id that is the name of an image's folder, or else starts its file name; None if there is neither."""
    *_, folder, name = ("", *path.split("/"))
    match = re.fullmatch(r"n\d{8}", folder) or re.match(r"n\d{8}", name)
    return match[0] if match else None
