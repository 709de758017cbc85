"""Files that are there whole or not at all."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write beside ``path``, which takes its place at the end, or vanishes where an exception is the end."""
    part = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def save_text(text: str, path: Path) -> None:
    """Write a text file, as UTF-8 and with line ends as they are."""
    with whole_file(path) as part:
        part.write_text(text, encoding="utf-8", newline="")
