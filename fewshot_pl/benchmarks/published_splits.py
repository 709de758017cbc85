"""The class splits that papers share, as data files beside this one."""

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from pytorch_lightning.utilities import rank_zero_warn

from fewshot_pl.errors import InputError

_File = TypeVar("_File")


def published_split(name: str) -> dict[str, list[str]]:
    """The class names (or alphabets) by split, from ``splits/<name>.json``."""
    table: dict[str, list[str]] = json.loads((Path(__file__).parent / "splits" / f"{name}.json").read_text("utf-8"))
    return table


def whole_classes(
    names: Iterable[str], files: dict[str, list[_File]], source: Path, layout: str, images_per_class: int | None = None
) -> Iterator[tuple[str, list[_File]]]:
    """Each class with its files; warns if their number is not the published one.

    Args:
        names: names of the classes.
        files: files of each class that has any.
        source: the folder or archive.
        layout: where the images of a class should be, with ``{name}`` for its name.
        images_per_class: the published number; None where it differs between classes.

    Raises:
        InputError: a class has no images.
    """
    names = list(names)
    if images_per_class is not None:
        warn_of_incomplete({name: len(files[name]) for name in names if name in files}, images_per_class, source)
    for name in names:
        if name not in files:
            where = layout.format(name=name)
            raise InputError(f"class '{name}' has no images in {source}: {where}; extract or copy it again")
        yield name, files[name]


def warn_of_incomplete(images_per_class: dict[str, int], published: int, source: Path) -> None:
    """Warn of the first class whose number of images is not the published one."""
    for name, count in images_per_class.items():
        if count != published:
            rank_zero_warn(f"'{name}' has {count} images in {source} and not {published}: no figure will be comparable")
            return


def warn_of_incomplete_total(count: int, published: int, source: Path) -> None:
    """Warn if all classes together do not have the published number of images."""
    if count != published:
        rank_zero_warn(f"{source} has {count} images and not {published}: no figure will be comparable")
