"""The pickles in which miniImageNet is passed around, read as if each image were a file."""

import io
from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from fewshot_pl.benchmarks.array_pickle import unpickled_arrays
from fewshot_pl.data.image_tree import FolderTree, ImageTree
from fewshot_pl.errors import InputError

_Classes = tuple[Any, dict[str, Any]]  # images [n, H, W, 3], and the numbers of those of each class


def _of_cache(content: dict[str, Any]) -> _Classes:
    return content["image_data"], content["class_dict"]


def _of_category_split(content: dict[str, Any]) -> _Classes:
    labels = np.asarray(content["labels"])
    numbers = {name: np.flatnonzero(labels == label) for name, label in content["catname2label"].items()}
    return content["data"], numbers


# Of Ren et al. 2018, and of Gidaris and Komodakis 2018, whose other two files hold more images of the classes to train
# on.
_FORMS: dict[Callable[[dict[str, Any]], _Classes], tuple[str, ...]] = {
    _of_cache: tuple(f"mini-imagenet-cache-{part}.pkl" for part in ("train", "val", "test")),
    _of_category_split: tuple(
        f"miniImageNet_category_split_{part}.pickle" for part in ("train_phase_train", "val", "test")
    ),
}
PICKLES = tuple(name for names in _FORMS.values() for name in names)


class MaybePickled(ImageTree):
    """The images of a folder or archive, or those in its pickles if it holds no image of any class.

    All images of the pickles are kept in memory until ``close``.

    Args:
        tree: the folder or archive.
        class_of: the function from a path to a class, or to None.

    Raises:
        InputError: a pickle is broken, of another form, or wants to run code.
    """

    def __init__(self, tree: ImageTree, class_of: Callable[[str], str | None]) -> None:
        super().__init__(tree.path)
        self._tree = tree
        self._class_of = class_of

    def _paths(self) -> Iterable[str]:
        return self._images if self._pickles else self._tree.everything

    def read(self, name: str) -> bytes:
        if not self._pickles:
            return self._tree.read(name)
        content = io.BytesIO()
        Image.fromarray(self._images[name]).save(content, format="ppm")  # as it is: this format does not compress
        return content.getvalue()

    def fingerprint(self) -> dict[str, Any]:
        if isinstance(self._tree, FolderTree) and self._pickles:  # an archive would have to be opened to see
            return self._tree.fingerprint_of(self._pickles)
        return self._tree.fingerprint()

    def close(self) -> None:
        vars(self).pop("_images", None)
        self._tree.close()

    @cached_property
    def _pickles(self) -> list[str]:
        """The paths of the pickles that are read."""
        if any(map(self._class_of, self._tree.names)):
            return []
        of_forms = ([path for path in self._tree.everything if _name(path) in names] for names in _FORMS.values())
        return next(filter(None, of_forms), [])

    @cached_property
    def _images(self) -> dict[str, NDArray[np.uint8]]:
        """The images [H, W, 3] by the path that a file of each would have."""
        return {
            f"{name}/{part}{number:08d}.ppm": image
            for part, path in enumerate(self._pickles)
            for name, number, image in self._read(path)
        }

    def _read(self, path: str) -> Iterator[tuple[str, int, NDArray[np.uint8]]]:
        """The class, number and pixels of each image of a pickle."""
        place = f"{self.path}/{path}"
        content = self._unpickled(path, place)
        parse = next(parse for parse, names in _FORMS.items() if _name(path) in names)
        try:
            images, numbers = parse(content)
            if images.dtype != np.uint8 or images.ndim != 4 or images.shape[-1] != 3:
                raise ValueError("these are no colour images")
            found = [(str(name), int(number)) for name, of_class in numbers.items() for number in of_class]
            if not all(0 <= number < len(images) for _, number in found):
                raise ValueError("a class has images that are not there")
        except Exception as error:  # whatever else the file holds
            raise InputError(f"{place} does not hold miniImageNet as its name says: get it again") from error
        return ((name, number, np.asarray(images[number])) for name, number in found)

    def _unpickled(self, path: str, place: str) -> Any:
        if not isinstance(self._tree, FolderTree):
            return unpickled_arrays(io.BytesIO(self._tree.read(path)), place)
        try:
            with (self.path / path).open("rb") as file:  # not all at once, as it is large
                return unpickled_arrays(file, place)
        except OSError as error:
            raise InputError(f"{place} cannot be read ({error.strerror}): repair or remove it") from error


def _name(path: str) -> str:
    return PurePosixPath(path).name
