"""The class folders of images below a user's folder, and the split of each."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pytorch_lightning.utilities import rank_zero_warn

from fewshot_pl import benchmarks
from fewshot_pl.data.datamodule import SPLITS, Split
from fewshot_pl.data.image_tree import FolderTree, is_hidden
from fewshot_pl.errors import InputError
from fewshot_pl.printable import first_of

SplitRatio = tuple[float, float, float]
ClassFolders = dict[Split, list[Path]]
_NAMES: dict[Split, tuple[str, ...]] = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}


def class_folders(root: Path, split_ratio: SplitRatio, split_seed: int, cache_dir: Path) -> ClassFolders:
    """The class folders of each split, sorted by name; a split may have none.

    Folders that commands leave in ``root``, of runs and ``cache_dir``, do not count as classes.

    Raises:
        InputError: ``root`` does not exist or holds no class folders, or the ratio is invalid.
    """
    if not root.is_dir():
        raise InputError(
            f"there is no folder {root}: point --data.root at a folder with one folder of images per class"
        )
    if len(split_ratio) != 3 or min(split_ratio) < 0 or not 0 < sum(split_ratio) < math.inf:
        raise InputError(f"split_ratio must be three shares for train, val and test, not {split_ratio}")
    given = {split: _given(root, split) for split in SPLITS}
    if not any(given.values()):
        classes = _users_folders(root, cache_dir)
        if not classes:
            raise InputError(
                f"{root} holds no folders: make one folder per class in it and put the class's images there"
            )
        return _divided(classes, split_ratio, split_seed)
    if given["train"] and not given["val"] and split_ratio[1] > 0:
        given |= _divided(given["train"], (*split_ratio[:2], 0.0), split_seed) | {"test": given["test"]}
    _warn_of_shared_classes(given, root)
    _warn_of_others(_users_folders(root, cache_dir), root)
    return given


def visible_folders(parent: Path) -> Iterator[Path]:
    """The folders in ``parent``, sorted, neither hidden nor left by programs; none if ``parent`` does not exist."""
    if parent.is_dir():
        yield from sorted(path for path in parent.iterdir() if path.is_dir() and not is_hidden(path.name))


def no_image(tree: FolderTree) -> InputError:
    """The error for a class folder without an image that can be read."""
    if tree.undecoded:
        return InputError(
            f"class folder {tree.path} holds no image that can be read, but {first_of(tree.undecoded)}: convert to JPEG"
        )
    return InputError(f"class folder {tree.path} holds no image: add images or remove the folder")


def _given(root: Path, split: Split) -> list[Path]:
    found = {name: folders for name in _NAMES[split] if (folders := list(visible_folders(root / name)))}
    if len(found) > 1:
        raise InputError(f"{root} has {'/ and '.join(found)}/, which mean the same: put their classes into one of them")
    return next(iter(found.values()), [])


def _users_folders(root: Path, cache_dir: Path) -> list[Path]:
    return [folder for folder in visible_folders(root) if not (_holds_runs(folder) or _holds_cache(folder, cache_dir))]


def _holds_runs(folder: Path) -> bool:
    """Whether a folder holds a ``<benchmark>/<algorithm>/<number>``, as ``--runs`` does."""
    return any(run.name.isdigit() for name in benchmarks.__all__ for run in (folder / name).glob("*/*"))


def _holds_cache(folder: Path, cache_dir: Path) -> bool:
    return cache_dir.resolve().is_relative_to(folder.resolve()) and not FolderTree(folder).names


def _divided(classes: list[Path], ratio: SplitRatio, seed: int) -> ClassFolders:
    """The classes of each split, sorted; adding or removing a class moves at most two others to another split."""
    shuffled = sorted(classes, key=lambda folder: _place(folder.name, seed))
    first, second, _ = np.rint(np.cumsum(ratio) / sum(ratio) * len(classes)).astype(int)
    parts = shuffled[:first], shuffled[first:second], shuffled[second:]
    return {split: sorted(part) for split, part in zip(SPLITS, parts, strict=True)}


def _place(name: str, seed: int) -> bytes:
    """The sort key of a class in the order that is split: random, but independent of the other classes."""
    return hashlib.sha256(f"{seed} {name}".encode("utf-8", "surrogateescape")).digest()


def _warn_of_shared_classes(folders: ClassFolders, root: Path) -> None:
    names = {split: {folder.name for folder in folders[split]} for split in SPLITS}
    if shared := sorted(names["train"] & (names["val"] | names["test"])):
        rank_zero_warn(
            f"class {first_of(shared)} is in train/ and in val/ or test/ of {root}: "
            "few-shot figures are about classes that training never saw"
        )


def _warn_of_others(folders: list[Path], root: Path) -> None:
    known = {name for names in _NAMES.values() for name in names}
    if others := [folder.name for folder in folders if folder.name not in known]:
        rank_zero_warn(
            f"folder {first_of(others)} of {root} is left out: classes are read from train/, val/ and test/ beside it"
        )
