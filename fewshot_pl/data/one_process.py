"""Work on a file or folder that only one process at a time does."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout
from pytorch_lightning.utilities import rank_zero_info


@contextmanager
def one_process(path: Path) -> Iterator[bool]:
    """Waits until no other process is in here for the same path; whether it is sure that none is.

    The operating system holds the lock, on ``.<name>.lock`` beside the path, and lets go of it when its process ends,
    however it ends. Where that file cannot be written nobody waits: what is done in here must be right without, too.
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
        return False  # what writes the path says why it cannot
    return True
