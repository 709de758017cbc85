"""The image files inside an archive, read without extracting it."""

import bz2
import gzip
import lzma
import os
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

from fewshot_pl.data.image_tree import FolderTree, ImageTree, check_size
from fewshot_pl.errors import InputError

_UNPACK = "unpack it, and leave the folder in its place"
_TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_OPENERS: dict[bytes, Callable[..., Any]] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ\0": lzma.open}
_CHUNK_BYTES = 1 << 24
# How much an archive may unpack to: images hardly compress, drawings some ten times.
_MAX_RATIO = 100  # of its own size
_ALWAYS_ALLOWED_BYTES = 1 << 28  # small archives are mostly padding


class Archive(ImageTree):
    """The images in an archive, whose fingerprint is its path, size and modification time."""

    kind: ClassVar[str]

    def refusal(self, error: Exception) -> InputError:
        """The error to show for what a reader of the archive raised, which on damaged bytes can be anything."""
        reason = str(error).partition("\n")[0].rstrip(":") or type(error).__name__
        return InputError(f"{self.path} is not a whole {self.kind} archive ({reason}): download or copy it again")

    @contextmanager
    def _whole(self) -> Iterator[None]:
        """A context in which errors of a reader are told as a refusal of the archive."""
        try:
            yield
        except InputError:
            raise
        except Exception as error:
            raise self.refusal(error) from error

    def fingerprint(self) -> dict[str, Any]:
        status = self.path.stat()
        return {"archive": str(self.path.resolve()), "size": status.st_size, "mtime_ns": status.st_mtime_ns}


class ZipTree(Archive):
    """The images in a zip archive, read without extracting it.

    Raises:
        InputError: the archive is truncated or not a zip, needs a password, or holds a file that is too large.
    """

    kind = "zip"

    @cached_property
    def _archive(self) -> zipfile.ZipFile:
        with self._whole():
            return zipfile.ZipFile(self.path)

    def _paths(self) -> Iterable[str]:
        return (member.filename for member in self._archive.infolist() if not member.is_dir())

    def read(self, name: str) -> bytes:
        with self._whole():
            member = self._archive.getinfo(name)
            check_size(f"{self.path}/{name}", member.file_size)
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):  # others unpack without bounds
                raise InputError(f"{self.path} is compressed in a rare way: {_UNPACK}")
            with self._archive.open(member) as content:
                return content.read(member.file_size)  # without a size it may unpack more than was declared

    def close(self) -> None:
        if archive := vars(self).pop("_archive", None):
            archive.close()

    def refusal(self, error: Exception) -> InputError:
        if "password required" in str(error):
            return InputError(f"{self.path} wants a password: {_UNPACK}")
        return super().refusal(error)


class TarTree(Archive):
    """The images in a tar archive.

    No member is ever written under its own name, wherever that points; links and devices are ignored. A compressed
    archive is unpacked once, in one pass, into an unnamed file that vanishes with ``close``: reading it member by
    member would unpack it from its start each time.

    Raises:
        InputError: the archive is truncated or not a tar, unpacks to far more than its size, or there is no room.
    """

    kind = "tar"

    def _paths(self) -> Iterable[str]:
        return self._members

    def read(self, name: str) -> bytes:
        with self._whole():
            check_size(f"{self.path}/{name}", self._members[name].size)
            content = self._archive.extractfile(self._members[name])
            assert content is not None, "members are regular files"
            return content.read()

    def close(self) -> None:
        vars(self).pop("_members", None)
        if archive := vars(self).pop("_archive", None):
            archive.fileobj.close()

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:  # TarFile's own look-up scans its list each time
        with self._whole():
            return {member.name.removeprefix("./"): member for member in self._archive if member.isfile()}

    @cached_property
    def _archive(self) -> tarfile.TarFile:
        file = self.path.open("rb")
        try:
            return tarfile.open(fileobj=file, mode="r:")
        except tarfile.ReadError:  # compressed, or not a tar
            file.close()
        unpacked = tempfile.TemporaryFile(dir=self._roomy_folder())  # noqa: SIM115 - open until close()
        with self._unpacking() as content:
            self._copy(content, unpacked)
        unpacked.seek(0)
        return tarfile.open(fileobj=unpacked, mode="r:")

    def _unpacking(self) -> BinaryIO:
        with self.path.open("rb") as file:
            start = file.read(6)
        for magic, opened in _OPENERS.items():
            if start.startswith(magic):
                return cast(BinaryIO, opened(self.path))
        raise tarfile.ReadError("it is of no known kind")

    def _copy(self, content: BinaryIO, unpacked: BinaryIO) -> None:
        max_bytes = max(_ALWAYS_ALLOWED_BYTES, _MAX_RATIO * self.path.stat().st_size)
        while chunk := content.read(_CHUNK_BYTES):
            if unpacked.tell() + len(chunk) > max_bytes:
                raise InputError(
                    f"{self.path} unpacks to more than {_MAX_RATIO} times its size, as no archive of images does: "
                    "get it from where you trust it, or extract it yourself and leave the folder in its place"
                )
            unpacked.write(chunk)

    def _roomy_folder(self) -> str | None:
        """The archive's own folder, which had room for the archive, if it can be written to; else None."""
        folder = self.path.parent
        return str(folder) if os.access(folder, os.W_OK) else None

    def refusal(self, error: Exception) -> InputError:
        # Of damaged bytes gzip raises its own OSError, and bz2 one without a number.
        if not isinstance(error, OSError) or isinstance(error, gzip.BadGzipFile) or error.errno is None:
            return super().refusal(error)
        return InputError(
            f"{self.path} cannot be unpacked ({error}): make room for it, or extract it yourself and leave the "
            "folder in its place"
        )


def find_tree(root: Path, name: str) -> ImageTree | None:
    """``root/name`` as a zip or tar archive, or else as a folder; None if there is neither."""
    if (archive := root / f"{name}.zip").is_file():
        return ZipTree(archive)
    for ending in _TAR_ENDINGS:
        if (archive := root / f"{name}{ending}").is_file():
            return TarTree(archive)
    return FolderTree(folder) if (folder := root / name).is_dir() else None
