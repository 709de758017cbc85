"""The image files below a folder or inside an archive, read one way."""

import hashlib
import io
import os
import zipfile
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from PIL import Image, UnidentifiedImageError

from fewshot_pl.errors import InputError

_ANNOTATIONS = (".txt", ".json", ".mat", ".npy")  # .npy holds Quickdraw's drawings


class ImageTree(ABC):
    """Image files, and the files that annotate them, with their paths relative to a folder or archive.

    Hidden files, and files whose extension belongs to no format of images or annotations, are not seen.

    Attributes:
        path: the folder or archive.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def files(self) -> list[str]:
        """Sorted relative paths, with forward slashes, of images and annotations."""
        return sorted(filter(_is_seen, self._paths()))

    @cached_property
    def names(self) -> list[str]:
        """Those of ``files`` that are images."""
        return [name for name in self.files if _extension(name) not in _ANNOTATIONS]

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
        """Let go of what is held open; a later read opens it again."""


class FolderTree(ImageTree):
    """The images below a folder, at any depth; or ``only`` one file in it."""

    def __init__(self, path: Path, only: str | None = None) -> None:
        super().__init__(path)
        self._only = only

    def _paths(self) -> Iterable[str]:
        if self._only is not None:
            yield self._only
            return
        for folder, _, files in os.walk(self.path, followlinks=True):
            below = Path(folder).relative_to(self.path).as_posix()
            yield from (file if below == "." else f"{below}/{file}" for file in files)

    def read(self, name: str) -> bytes:
        return (self.path / name).read_bytes()

    def fingerprint(self) -> dict[str, Any]:
        digest = hashlib.sha256()
        for name in self.files:
            status = os.stat(f"{self.path}/{name}")  # noqa: PTH116 - half the time of Path.stat for 60,000 files
            digest.update(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n".encode("utf-8", "surrogateescape"))
        return {"folder": str(self.path.resolve()), "files": digest.hexdigest()}


class Archive(ImageTree):
    """The images in an archive, told from its size and its time of change."""

    def fingerprint(self) -> dict[str, Any]:
        status = self.path.stat()
        return {"archive": str(self.path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


class ZipTree(Archive):
    """The images in a zip archive, read without extracting it.

    Raises:
        InputError: the archive is cut short or is none.
    """

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        try:
            return zipfile.ZipFile(self.path)
        except zipfile.BadZipFile as error:
            raise InputError(f"{self.path} is not a whole zip archive ({error}): download or copy it again") from error

    def _paths(self) -> Iterable[str]:
        return self._archive.namelist()

    def read(self, name: str) -> bytes:
        return self._archive.read(name)

    def close(self) -> None:
        if archive := vars(self).pop("_archive", None):
            archive.close()


class ImageFile(NamedTuple):
    """One image of a tree."""

    tree: ImageTree
    name: str

    def __str__(self) -> str:
        return f"{self.tree.path}/{self.name}"

    def decoded(self, at_least: int | None = None) -> Image.Image:
        """The image with its pixels loaded; a JPEG may come smaller, with no side below ``at_least``.

        Raises:
            InputError: naming the file, when it does not decode.
        """
        try:
            image = Image.open(io.BytesIO(self.tree.read(self.name)))
            if at_least is not None:
                image.draft(None, (at_least, at_least))  # many times faster on large photographs
            image.load()
            return image
        except InputError:
            raise
        except UnidentifiedImageError as error:
            raise InputError(
                f"image {self} cannot be decoded (it is of no known format): replace it or remove it"
            ) from error
        except Exception as error:  # decoders raise whatever a damaged file makes them stumble over
            raise InputError(f"image {self} cannot be decoded ({error}): replace it or remove it") from error


def _is_seen(name: str) -> bool:
    parts = PurePosixPath(name).parts
    if any(part.startswith(".") or part == "__MACOSX" for part in parts):
        return False
    extension = _extension(name)
    return extension in Image.registered_extensions() or extension in _ANNOTATIONS


def _extension(name: str) -> str:
    return os.path.splitext(name)[1].lower()  # noqa: PTH122 - called 60,000 times
