"""DTD: the Describable Textures Dataset, 5,640 photographs of 47 textures (Cimpoi et al. 2014)."""

from fewshot_pl.benchmarks.photographs import Photographs
from fewshot_pl.data.download import Remote

_PAGE = "https://www.robots.ox.ac.uk/~vgg/data/dtd"


class DTD(Photographs):
    """DTD: 33 textures to train on, 7 to validate on, 7 to test on (Triantafillou et al. 2020).

    Reads ``dtd-r1.0.1`` or ``dtd``, as an archive or extracted, from ``root``, or ``root`` itself:
    ``images/<texture>/*.jpg``; if that is missing, it is downloaded (600 MB).

    Images are resized to squares without cropping, so their aspect ratios change, as in Meta-Dataset.
    """

    split_name = "dtd"
    places = ("dtd-r1.0.1", "dtd", "DTD")
    marks = ("images/banded", "banded")
    remotes = (
        Remote("dtd-r1.0.1.tar.gz", "fff73e5086ae6bdbea199a49dfb8a4c1", (f"{_PAGE}/download/dtd-r1.0.1.tar.gz",)),
    )
    layout = "it should hold them as images/{name}/*.jpg"
    images_per_class = 120
    by_hand = f"get dtd-r1.0.1.tar.gz from {_PAGE}/ and put it into {{root}}"
