"""The class splits that papers share, as data files beside this one."""

import json
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_warn


def published_split(name: str) -> dict[str, list[str]]:
    """The class names (or alphabets) by split, from ``splits/<name>.json``."""
    table: dict[str, list[str]] = json.loads((Path(__file__).parent / "splits" / f"{name}.json").read_text("utf-8"))
    return table


def warn_of_incomplete(images_per_class: dict[str, int], published: int, source: Path) -> None:
    """A warning that names the first class whose number of images is not the published one."""
    for name, count in images_per_class.items():
        if count != published:
            rank_zero_warn(f"'{name}' has {count} images in {source} and not {published}: no figure will be comparable")
            return
