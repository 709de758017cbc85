"""Downloads whose failure says what to do by hand."""

import socket
import tarfile
import zipfile
from collections.abc import Callable
from http.client import HTTPException
from typing import TypeVar

from fewshot_pl.errors import InputError

_SILENCE_SECONDS = 30.0  # a server that says nothing for this long will not answer
_Dataset = TypeVar("_Dataset")


def downloaded(dataset: Callable[[], _Dataset], by_hand: str) -> _Dataset:
    """What ``dataset()`` returns; it downloads what is not there yet.

    Args:
        dataset: makes a torchvision dataset with ``download=True``.
        by_hand: how to get the files without the download, as "get A from B and put it into C".

    Raises:
        InputError: no network, no space, no write permission, or a damaged file; with ``by_hand`` as the cure.
    """
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_SILENCE_SECONDS)
    try:
        return dataset()
    except (OSError, RuntimeError, EOFError, HTTPException, zipfile.BadZipFile, tarfile.TarError) as error:
        raise InputError(f"the download failed ({error}): {by_hand}") from error
    finally:
        socket.setdefaulttimeout(timeout)
