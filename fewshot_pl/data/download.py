"""Downloads that are verified, resume where they stopped, and say what to do by hand if they fail."""

import hashlib
import socket
import tarfile
import urllib.request
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from pathlib import Path
from typing import BinaryIO, NamedTuple, TypeVar
from urllib.error import HTTPError, URLError

from pytorch_lightning.utilities import rank_zero_info

from fewshot_pl.data.one_process import one_process
from fewshot_pl.errors import InputError

_SILENCE_SECONDS = 30.0  # a server that says nothing for this long will not answer
_ROUNDS = 3  # how often each mirror is asked, each time for what is still missing
_CHUNK_BYTES = 1 << 20
_Dataset = TypeVar("_Dataset")


class Remote(NamedTuple):
    """A published file."""

    name: str
    md5: str
    urls: tuple[str, ...]  # mirrors, the best first


def downloaded(dataset: Callable[[], _Dataset], place: Path, by_hand: str) -> _Dataset:
    """What ``dataset()`` returns after downloading what is missing, in one process at a time.

    Args:
        dataset: makes a torchvision dataset with ``download=True``.
        place: the file or folder that it downloads.
        by_hand: how to get the files without the download, such as "get A from B and put it into C".

    Raises:
        InputError: no network, no space, no write permission, or a damaged file; with ``by_hand`` as the cure.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_SECONDS)
    try:
        with one_process(place):
            return dataset()
    except (OSError, RuntimeError, EOFError, HTTPException, zipfile.BadZipFile, tarfile.TarError) as error:
        raise InputError(f"the download failed ({_reason(error)}): {by_hand}") from error
    finally:
        socket.setdefaulttimeout(timeout)


def verified_download(remote: Remote, folder: Path, by_hand: str) -> Path:
    """The path of a published file in ``folder``, downloaded if missing, with its checksum verified.

    An interrupted download is kept beside it as ``<name>.part``, and only the rest is requested if the server supports
    that. (torchvision's own download starts over, and takes a truncated file without a checksum for a whole one.)

    Args:
        remote: the file.
        folder: where it is or goes.
        by_hand: as in ``downloaded``.

    Raises:
        InputError: as in ``downloaded``; or a file of this name exists and is not the published one.
    """
    path = folder / remote.name
    if not path.exists():
        downloaded(lambda: _fetch(remote, path), path, f"run it again to go on where it stopped, or {by_hand}")
    elif _md5(path) != remote.md5:
        raise InputError(
            f"{path} is not the published file (MD5 {remote.md5}): remove it to have it downloaded, or {by_hand}"
        )
    return path


def _fetch(remote: Remote, path: Path) -> None:
    if path.exists():
        return  # another process has fetched it meanwhile
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    failures = []
    for url in remote.urls * _ROUNDS:
        rank_zero_info(f"Downloading {url} to {path}")
        try:
            _fetch_rest(url, part)
        except (OSError, HTTPException) as error:
            failures.append(f"{url}: {_reason(error)}")
            continue
        if _md5(part) == remote.md5:
            part.replace(path)
            return
        part.unlink()  # of another file, or damaged: nothing to resume from
        failures.append(f"{url}: its MD5 is not {remote.md5}")
    raise OSError("; ".join(dict.fromkeys(failures)))


def _reason(error: object) -> str:
    """What went wrong, without error numbers of systems and libraries."""
    if isinstance(error, URLError) and not isinstance(error, HTTPError):
        return _reason(error.reason)
    if isinstance(error, OSError) and error.strerror:
        return f"{error.strerror}: {error.filename}" if error.filename else error.strerror
    return str(error)


def _fetch_rest(url: str, part: Path) -> None:
    """Append to ``part`` what it lacks, or fetch the whole file if the server does not send parts of it."""
    there = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={there}-"} if there else {})
    try:
        with urllib.request.urlopen(request) as response, part.open("ab") as file:
            if response.status != 206:
                file.truncate(0)
            _copy(response, file, response.headers.get("Content-Length"))
    except HTTPError as error:
        if error.code != 416:  # "range not satisfiable": nothing is missing, or the part is of another file
            raise


def _copy(response: BinaryIO, file: BinaryIO, length: str | None) -> None:
    copied = 0
    while chunk := response.read(_CHUNK_BYTES):
        file.write(chunk)
        copied += len(chunk)
    if length is not None and copied < int(length):
        raise OSError(f"the connection ended after {copied} of {length} bytes")


def _md5(path: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()
