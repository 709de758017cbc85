"""ImageStore: one split of one benchmark as a packed array on disk, memory-mapped."""

import errno
import json
import os
import shutil
import tempfile
import zlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from fewshot_pl.errors import InputError

_FORMAT = 1  # raised whenever the layout changes, so that older caches are rebuilt
_CHUNK_BYTES = 1 << 24


class BrokenStoreError(Exception):
    """The files of a store are missing, cut short, altered, or of another format."""


@dataclass(frozen=True)
class ImageStore:
    """All images of a split, sorted by class.

    Attributes:
        images: uint8 ``[num_images, C, H, W]``.
        class_names: name of each class.
        class_starts: int64 ``[num_classes + 1]``; class c owns images ``class_starts[c]:class_starts[c + 1]``.
    """

    images: NDArray[np.uint8]
    class_names: tuple[str, ...]
    class_starts: NDArray[np.int64]

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def class_images(self, index: int) -> NDArray[np.uint8]:
        """The images ``[n, C, H, W]`` of one class."""
        return self.images[self.class_starts[index] : self.class_starts[index + 1]]


def open_store(path: Path) -> ImageStore:
    """The store in folder ``path``, memory-mapped after its checksum was verified.

    Raises:
        BrokenStoreError: the files are not exactly what ``write_store`` wrote.
    """
    try:
        index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        if index["format"] != _FORMAT:
            raise BrokenStoreError(f"{path} has format {index['format']}, expected {_FORMAT}")
        shape = tuple(index["shape"])
        if (path / "images.u8").stat().st_size != int(np.prod(shape)):
            raise BrokenStoreError(f"{path} has the wrong size")
        images = np.memmap(path / "images.u8", dtype=np.uint8, mode="r", shape=shape)
        if _checksum(images) != index["crc32"]:
            raise BrokenStoreError(f"{path} fails its checksum")
        starts = np.asarray(index["class_starts"], dtype=np.int64)
        return ImageStore(images, tuple(index["class_names"]), starts)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise BrokenStoreError(f"{path} cannot be read: {error}") from error


def write_store(path: Path, classes: Iterable[tuple[str, NDArray[np.uint8]]]) -> None:
    """Write a store from (class name, images ``[n, C, H, W]``) pairs; all of it or nothing.

    The files are written under a temporary name beside ``path`` and renamed at the end, so a reader
    never sees a half-written store and two writers do not disturb each other.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
    try:
        _write_files(folder, classes)
        if path.exists():
            shutil.rmtree(path)
        os.replace(folder, path)
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise InputError(
                f"no space left on disk to write {path}: free some, or pass --data.cache_dir a folder on another disk"
            ) from error
        raise
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _write_files(folder: Path, classes: Iterable[tuple[str, NDArray[np.uint8]]]) -> None:
    names: list[str] = []
    starts = [0]
    image_shape: tuple[int, ...] = ()
    crc = 0
    with open(folder / "images.u8", "wb") as file:
        for name, images in classes:
            assert images.dtype == np.uint8 and images.ndim == 4, "classes hold uint8 [n, C, H, W]"
            assert not image_shape or images.shape[1:] == image_shape, "all images have one shape"
            image_shape = images.shape[1:]
            crc = zlib.crc32(np.ascontiguousarray(images), crc)
            file.write(np.ascontiguousarray(images).data)
            names.append(name)
            starts.append(starts[-1] + len(images))
        _flush_to_disk(file)
    index = {
        "format": _FORMAT,
        "shape": [starts[-1], *image_shape],
        "class_names": names,
        "class_starts": starts,
        "crc32": crc,
    }
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _checksum(images: NDArray[np.uint8]) -> int:
    flat = images.reshape(-1)
    crc = 0
    for start in range(0, flat.size, _CHUNK_BYTES):
        crc = zlib.crc32(flat[start : start + _CHUNK_BYTES], crc)
    return crc
