"""VGG Flowers: 8,189 photographs of 102 kinds of flowers (Nilsback and Zisserman 2008)."""

import io
import re
from collections.abc import Callable
from pathlib import PurePosixPath

from fewshot_pl.benchmarks.photographs import Photographs
from fewshot_pl.data.download import Remote

_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/flowers/102"


class VGGFlowers(Photographs):
    """VGG Flowers: 71 classes to train on, 15 to validate on, 16 to test on (Triantafillou et al. 2020).

    Reads ``102flowers.tgz``, or the folder ``jpg`` in it, with ``imagelabels.mat`` beside it, from ``root`` or from
    ``root/flowers-102``; if these are missing, they are downloaded (330 MB). Classes are named by their numbers,
    ``001`` to ``102``.

    Images are resized to squares without cropping, so their aspect ratios change, as in Meta-Dataset.
    """

    split_name = "vgg_flowers"
    places = ("102flowers", "flowers-102", "vgg_flower", "vgg_flowers", "jpg")
    marks = ("image_00001.jpg",)
    companions = ("imagelabels.mat",)
    remotes = (
        Remote("102flowers.tgz", "52808999861908f626f3c1f4e79d11fa", (f"{_PAGE}/102flowers.tgz",)),
        Remote("imagelabels.mat", "e0620be6f572b9609742df49c70aed4d", (f"{_PAGE}/imagelabels.mat",)),
    )
    layout = "it should hold those with label {name} in imagelabels.mat as jpg/image_<number>.jpg"
    num_images = 8_189
    by_hand = f"get 102flowers.tgz and imagelabels.mat from {_PAGE}/ and put both into {{root}}"

    def class_of(self) -> Callable[[str], str | None]:
        names = self.annotation("imagelabels.mat", _names)

        def class_of(path: str) -> str | None:
            match = re.fullmatch(r"image_(\d{5})", PurePosixPath(path).stem)
            return names.get(int(match[1])) if match else None

        return class_of


def _names(content: bytes) -> dict[int, str]:
    """The class of each image by its number, from 1."""
    from scipy.io import loadmat  # slow to import

    labels = loadmat(io.BytesIO(content))["labels"].ravel()
    return {number: f"{label:03d}" for number, label in enumerate(labels.tolist(), 1)}
