"""A user's image files: a folder of classes to learn from, and the images to label."""

from collections.abc import Iterable
from glob import glob
from itertools import chain
from pathlib import Path
from typing import NamedTuple

from fewshot_pl.benchmarks.class_folders import no_image, visible_folders
from fewshot_pl.data.image_tree import FolderTree
from fewshot_pl.errors import InputError


class FoundFiles(NamedTuple):
    """Image files, and other files found beside them."""

    images: list[Path]
    others: list[Path]


def support_classes(folder: Path) -> dict[str, FoundFiles]:
    """The files below each ``folder/<class>``, by the name of the class.

    Raises:
        InputError: there is no such folder, it has fewer than two class folders, or one of them has no image.
    """
    if not folder.is_dir():
        raise InputError(f"there is no folder {folder}: give --support a folder with one folder of images per class")
    classes = {path.name: _below(path) for path in visible_folders(folder)}
    if len(classes) < 2:
        raise InputError(
            f"{folder} holds {len(classes) or 'no'} class {'folder' if classes else 'folders'} and at least two are "
            "needed: make one folder of images per class in it"
        )
    for name, files in classes.items():
        if not files.images:
            raise no_image(FolderTree(folder / name))
    return classes


def query_files(patterns: Iterable[str]) -> FoundFiles:
    """The files that folders, file names or patterns like ``new/*.jpg`` name, each once.

    Raises:
        InputError: one of them names nothing, or there is no image among them.
    """
    images: dict[Path, None] = {}
    others: dict[Path, None] = {}
    for pattern in patterns:
        found = _named(pattern)
        images |= dict.fromkeys(found.images)
        others |= dict.fromkeys(found.others)
    if not images:
        beside = f"; {next(iter(others))} is none" if others else ""
        raise InputError(
            f"--query {' '.join(patterns)} names no image{beside}: give images, or a folder that holds some"
        )
    return FoundFiles(list(images), list(others))


def _named(pattern: str) -> FoundFiles:
    path = Path(pattern).expanduser()
    # Path.glob takes no absolute pattern.
    paths = [path] if path.exists() else [Path(name) for name in sorted(glob(str(path), recursive=True))]  # noqa: PTH207
    if not paths:
        raise InputError(f"there is no file or folder {pattern}: give --query images, or a folder that holds some")
    parts = [_below(one) if one.is_dir() else _sorted_out(one) for one in paths]
    return FoundFiles(*(list(chain(*lists)) for lists in zip(*parts, strict=True)))


def _below(folder: Path) -> FoundFiles:
    tree = FolderTree(folder)
    images = set(tree.names)
    return FoundFiles([folder / name for name in tree.names], [folder / n for n in tree.everything if n not in images])


def _sorted_out(path: Path) -> FoundFiles:
    return FoundFiles([path], []) if FolderTree(path.parent, only=[path.name]).names else FoundFiles([], [path])
