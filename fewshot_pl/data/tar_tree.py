"""The images in a tar archive, compressed or not, read without extracting it."""

import os
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cached_property
from gzip import BadGzipFile
from lzma import LZMAError
from typing import BinaryIO, cast

from fewshot_pl.data.image_tree import Archive
from fewshot_pl.errors import InputError

TAR_ENDINGS = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
_CHUNK_BYTES = 1 << 24


class TarTree(Archive):
    """The images in a tar archive.

    No member is ever written under its own name, wherever that points to; links and devices are not seen. What is
    compressed is unpacked once, in one pass, into an unnamed file that vanishes with ``close``: to read a compressed
    archive member by member would unpack it from its start for each.

    Raises:
        InputError: the archive is cut short or is none, or there is no room to unpack it.
    """

    def _paths(self) -> Iterable[str]:
        return self._members

    def read(self, name: str) -> bytes:
        with self._whole():
            content = self._archive.extractfile(self._members[name])
            assert content is not None, "members are regular files"
            return content.read()

    def close(self) -> None:
        vars(self).pop("_members", None)
        if archive := vars(self).pop("_archive", None):
            archive.fileobj.close()

    @cached_property
    def _members(self) -> dict[str, tarfile.TarInfo]:  # TarFile's own look-up goes through its list each time
        with self._whole():
            return {member.name.removeprefix("./"): member for member in self._archive if member.isfile()}

    @cached_property
    def _archive(self) -> tarfile.TarFile:
        file = self.path.open("rb")
        try:
            return tarfile.open(fileobj=file, mode="r:")
        except tarfile.ReadError:  # compressed, or none
            file.close()
        with tarfile.open(self.path) as packed:
            content = cast(BinaryIO, packed.fileobj)
            content.seek(0)
            unpacked = tempfile.TemporaryFile(dir=self._roomy_folder())  # noqa: SIM115 - open until close()
            shutil.copyfileobj(content, unpacked, _CHUNK_BYTES)
        unpacked.seek(0)
        return tarfile.open(fileobj=unpacked, mode="r:")

    def _roomy_folder(self) -> str | None:
        """The archive's own folder, which had room for the archive, where it can be written to."""
        folder = self.path.parent
        return str(folder) if os.access(folder, os.W_OK) else None

    @contextmanager
    def _whole(self) -> Iterator[None]:
        try:
            yield
        except (tarfile.TarError, EOFError, zlib.error, LZMAError, BadGzipFile) as error:
            reason = str(error).partition("\n")[0].rstrip(":")
            raise InputError(f"{self.path} is not a whole tar archive ({reason}): download or copy it again") from error
        except OSError as error:
            raise InputError(
                f"{self.path} cannot be unpacked ({error}): make room for it, or extract it yourself and leave the "
                "folder in its place"
            ) from error
