"""Work on a file or folder by one process at a time."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_info


@contextmanager
def one_process(path: Path) -> Iterator[bool]:
    """A context that waits until no other process is in it for the same path, and yields whether that is sure.

    The operating system holds the lock, on ``.<name>.lock`` beside the path, and releases it when the process ends,
    however it ends. If that file cannot be written, nobody waits, so the work must be correct without the lock too.
    """
    with ExitStack() as held:
        yield _waited(held, path)


def _waited(held: ExitStack, path: Path) -> bool:
    lock = FileLock(path.with_name(f".{path.name}.lock"))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            held.enter_context(lock.acquire(timeout=0))
        except Timeout:
            rank_zero_info(f"Waiting for another process, which makes {path}")
            held.enter_context(lock.acquire())
    except (OSError, NotImplementedError):
        return False  # writing the path itself will say why it fails
    return True
