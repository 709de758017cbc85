"""Files that are written whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary file beside ``path`` that replaces it at the end, or is removed at an exception.

    It is flushed to the disk before it replaces ``path``, so not even a power cut leaves half a file.
    """
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        _wait_for_disk(part)
        part.replace(path)
        if os.name == "posix":  # elsewhere folders cannot be opened
            _wait_for_disk(path.parent)
    finally:
        part.unlink(missing_ok=True)


def save_text(text: str, path: Path) -> None:
    """Write a text file atomically, as UTF-8 and with line endings as they are."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="")


def _wait_for_disk(path: Path) -> None:
    """Wait until a file's contents, or a folder's names, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
