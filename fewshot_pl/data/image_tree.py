"""The image files below a folder or inside an archive, read in one way."""

import hashlib
import io
import os
import re
import stat
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from fewshot_pl.data.bit_depth import check_depth
from fewshot_pl.data.image_formats import FORMATS, extension, is_decoded, undecoded
from fewshot_pl.errors import InputError

_ANNOTATIONS = (".txt", ".json", ".mat", ".npy")  # .npy holds Quickdraw's drawings
_LEFT_BEHIND = {"__MACOSX", "__pycache__"}
_MAX_BYTES = 1 << 30  # of one file; a larger one is no image, and would fill the memory


class ImageTree(ABC):
    """Image files, and the files that annotate them, with their paths relative to a folder or archive.

    Hidden files, and files whose extension belongs to no image or annotation format, are ignored.

    Attributes:
        path: the folder or archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def everything(self) -> list[str]:
        """Sorted relative paths, with forward slashes, of all files that are not hidden."""
        return sorted(name for name in self._paths() if not is_hidden(name))

    @cached_property
    def files(self) -> list[str]:
        """The paths of images and annotations."""
        return [name for name in self.everything if is_decoded(name) or extension(name) in _ANNOTATIONS]

    @cached_property
    def names(self) -> list[str]:
        """The paths of images."""
        return list(filter(is_decoded, self.everything))

    @property
    def undecoded(self) -> list[str]:
        """The paths of photographs in formats that are not read, as .heic, without a copy in one that is."""
        return undecoded(self.everything)

    @abstractmethod
    def _paths(self) -> Iterable[str]:
        """Relative paths of all files, in any order."""

    @abstractmethod
    def read(self, name: str) -> bytes:
        """The content of a file."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """Plain values that change when a file is added, removed or replaced."""

    def close(self) -> None:  # noqa: B027 - a folder holds nothing open
        """Close what is open; a later read opens it again."""


class FolderTree(ImageTree):
    """The images below a folder, at any depth, following links; or ``only`` some files in it.

    Raises:
        InputError: a folder or file cannot be read, or is a pipe or a device.
    """

    def __init__(self, path: Path, only: Iterable[str] | None = None) -> None:
        super().__init__(path)
        self._only = only

    def _paths(self) -> Iterable[str]:
        with _readable(self.path):
            yield from _below(f"{self.path}/") if self._only is None else self._only

    def read(self, name: str) -> bytes:
        path = self.path / name
        with _readable(path):
            status = path.stat()
            if not stat.S_ISREG(status.st_mode):
                raise InputError(f"{path} is no file that can be read to its end: remove it")
            check_size(path, status.st_size)
            return path.read_bytes()

    def fingerprint(self) -> dict[str, Any]:
        return self.fingerprint_of(self.files)

    def fingerprint_of(self, names: Iterable[str]) -> dict[str, Any]:
        """The fingerprint of some files."""
        digest = hashlib.sha256()
        with _readable(self.path):
            for name in names:
                status = os.stat(f"{self.path}/{name}")  # noqa: PTH116 - half the time of Path.stat for 60,000 files
                digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return {"folder": str(self.path.resolve()), "files": digest.hexdigest()}


class ImageFile(NamedTuple):
    """One image of a tree."""

    tree: ImageTree
    name: str

    def __str__(self) -> str:
        return f"{self.tree.path}/{self.name}"

    def decoded(self, at_least: int | None = None) -> Image.Image:
        """The image with its pixels loaded; a JPEG may come out smaller, with no side below ``at_least``.

        Raises:
            InputError: the file, which is named, cannot be decoded, or has values of no known range.
        """
        try:
            image = Image.open(io.BytesIO(self.tree.read(self.name)), formats=FORMATS)
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # many times faster on large photographs
            image.load()
            check_depth(image, f"image {self}")  # here, where its name is known
            return image
        except InputError:
            raise
        except Image.DecompressionBombError as error:
            raise InputError(
                f"image {self} has {_pixels(error)} pixels, too many to decode: make it smaller"
            ) from error
        except Exception as error:  # decoders can raise anything on a damaged file
            raise InputError(f"image {self} cannot be decoded ({_reason(error)}): replace it or remove it") from error


def check_size(name: object, size: int) -> None:
    """Raise InputError if a file of ``size`` bytes is too large to be read."""
    if size > _MAX_BYTES:
        raise InputError(f"{name} has {size / 2**30:.1f} GiB, more than an image or a list of them: remove it")


def _reason(error: Exception) -> str:
    if isinstance(error, UnidentifiedImageError):
        return "it is of no known image format"
    return str(error).partition("\n")[0] or type(error).__name__


def _pixels(error: Image.DecompressionBombError) -> str:
    return found[0] if (found := re.search(r"\d+", str(error))) else "very many"


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        place = error.filename or path
        raise InputError(f"{place} cannot be read ({error.strerror}): repair or remove it") from error


def _below(folder: str, start: int | None = None, above: tuple[str, ...] = ()) -> Iterator[str]:
    """The paths of the files below a folder, relative to it; a link back to a folder above is not followed."""
    start = len(folder) if start is None else start
    real = os.path.realpath(folder)
    if real in above:
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            path = f"{folder}{entry.name}"
            if not entry.is_dir():
                yield path[start:]
            elif not is_hidden(entry.name):
                yield from _below(f"{path}/", start, (*above, real))


def is_hidden(name: str) -> bool:
    """Whether a relative path is hidden, or one that programs leave among a user's files."""
    return any(part.startswith(".") or part in _LEFT_BEHIND for part in PurePosixPath(name).parts)
