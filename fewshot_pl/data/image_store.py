"""ImageStore: one split of one benchmark as a packed array on disk, memory-mapped."""

import errno
import glob
import json
import math
import os
import shutil
import tempfile
import warnings
import zlib
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fewshot_pl.errors import InputError

_FORMAT = 1  # increased whenever the layout changes, so that older caches are rebuilt
_CHUNK_BYTES = 1 << 24
_UNWRITABLE = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST)
_MISSING = (FileNotFoundError, NotADirectoryError, IsADirectoryError)


class BrokenStoreError(Exception):
    """The files of a store are missing, cut short, altered, or of another format."""


@dataclass(frozen=True)
class ImageStore:
    """All images of a split, sorted by class.

    Attributes:
        images: uint8 ``[num_images, C, H, W]``, read-only.
        class_names: name of each class.
        class_starts: int64 ``[num_classes + 1]``; class c owns images ``class_starts[c]:class_starts[c + 1]``.
        checksum: of all of the above, if the store was opened from files.
    """

    images: NDArray[np.uint8]
    class_names: tuple[str, ...]
    class_starts: NDArray[np.int64]
    checksum: int | None = None

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    def class_images(self, index: int) -> NDArray[np.uint8]:
        """The images ``[n, C, H, W]`` of one class."""
        return self.images[self.class_starts[index] : self.class_starts[index + 1]]

    def tensor(self) -> Tensor:
        """All images, uint8 [num_images, C, H, W], in the memory map: nothing may write to them."""
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
            return torch.from_numpy(self.images)

    def images_at(self, numbers: Tensor) -> Tensor:
        """Copies of the images with these numbers [...]: uint8 [..., C, H, W]."""
        return torch.from_numpy(self.images[numbers.numpy()])


def open_store(path: Path) -> ImageStore:
    """The store in folder ``path``, memory-mapped after its checksum was verified.

    Raises:
        BrokenStoreError: the files are not exactly what ``write_store`` wrote.
        InputError: they exist but cannot be read: no permission, no memory for the map, or a failing disk.
    """
    try:
        index = json.loads((path / "index.json").read_text(encoding="utf-8"))
        if index["format"] != _FORMAT:
            raise BrokenStoreError(f"{path} has format {index['format']}, expected {_FORMAT}")
        shape = tuple(index["shape"])
        if (path / "images.u8").stat().st_size != math.prod(shape):
            raise BrokenStoreError(f"{path} has the wrong size")
        # Read-only: a writable map would count against memory, so stores could not be larger than it.
        images = np.memmap(path / "images.u8", dtype=np.uint8, mode="r", shape=shape)
        if zlib.crc32(_index_bytes(index), _checksum(images)) != index["crc32"]:
            raise BrokenStoreError(f"{path} fails its checksum")
        starts = np.asarray(index["class_starts"], dtype=np.int64)
        names = tuple(index["class_names"])
        if images.ndim != 4 or len(starts) != len(names) + 1 or starts[0] or starts[-1] != len(images):
            raise BrokenStoreError(f"{path} has an index of other images")
        if (np.diff(starts) < 0).any():
            raise BrokenStoreError(f"{path} has classes out of order")
        return ImageStore(images, names, starts, index["crc32"])
    except (*_MISSING, ValueError, LookupError, TypeError, OverflowError, RecursionError) as error:
        raise BrokenStoreError(f"{path} cannot be read: {error}") from error
    except OSError as error:  # an error of the disk or folder: the store itself may be intact
        raise InputError(
            f"the packed images in {path} cannot be read ({error.strerror}): make them readable, or pass "
            "--data.cache_dir another folder"
        ) from error


def write_store(path: Path, classes: Iterable[tuple[str, NDArray[np.uint8]]]) -> None:
    """Write a store from (class name, images ``[n, C, H, W]``) pairs; all of it or nothing.

    The files are written under a temporary name beside ``path`` and renamed at the end, so a reader
    never sees a half-written store. A whole store that another process wrote meanwhile is kept.

    Raises:
        InputError: the disk is full, or the folder cannot be written to.
    """
    folder: Path | None = None
    is_new = not path.parent.exists()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f"{path.name}.", suffix=".part", dir=path.parent))
        _write_files(folder, classes)
        _put_in_place(folder, path)
    except OSError as error:
        if error.errno in _UNWRITABLE:
            raise InputError(
                f"cannot write {path} ({error.strerror}): make room for it, or pass --data.cache_dir another folder"
            ) from error
        raise
    finally:
        if folder is not None:
            shutil.rmtree(folder, ignore_errors=True)
        if is_new:
            with suppress(OSError):  # it is empty only if nothing could be written
                path.parent.rmdir()


def remove_parts(path: Path) -> None:
    """Remove what killed writers of the store at ``path`` left behind; only while no other process writes it."""
    for part in path.parent.glob(f"{glob.escape(path.name)}.*.part"):
        shutil.rmtree(part, ignore_errors=True)


def _put_in_place(folder: Path, path: Path) -> None:
    try:
        open_store(path)
    except BrokenStoreError:
        shutil.rmtree(path, ignore_errors=True)
        try:
            folder.replace(path)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):  # else another process was faster
                raise


def _write_files(folder: Path, classes: Iterable[tuple[str, NDArray[np.uint8]]]) -> None:
    names: list[str] = []
    starts = [0]
    image_shape: tuple[int, ...] = ()
    crc = 0
    with (folder / "images.u8").open("wb") as file:
        for name, images in classes:
            assert images.dtype == np.uint8 and images.ndim == 4, "classes hold uint8 [n, C, H, W]"
            assert not image_shape or images.shape[1:] == image_shape, "all images have one shape"
            image_shape = images.shape[1:]
            content = np.ascontiguousarray(images).data
            crc = zlib.crc32(content, crc)
            file.write(content)
            names.append(name)
            starts.append(starts[-1] + len(images))
        _flush_to_disk(file)
    index = {"format": _FORMAT, "shape": [starts[-1], *image_shape], "class_names": names, "class_starts": starts}
    index["crc32"] = zlib.crc32(_index_bytes(index), crc)
    (folder / "index.json").write_text(json.dumps(index), encoding="utf-8")


def _index_bytes(index: dict[str, Any]) -> bytes:
    return json.dumps([index["shape"], index["class_names"], index["class_starts"]]).encode()


def _flush_to_disk(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def _checksum(images: NDArray[np.uint8]) -> int:
    flat = images.reshape(-1)
    crc = 0
    for start in range(0, flat.size, _CHUNK_BYTES):
        crc = zlib.crc32(flat[start : start + _CHUNK_BYTES].data, crc)
    return crc
