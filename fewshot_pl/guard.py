"""What stands between a command and its user: mistakes become one sentence, and advertisements are left out."""

import errno
import logging
import sys
import warnings
from collections.abc import Callable, Sequence

from pytorch_lightning.utilities import rank_zero_only

from fewshot_pl.errors import InputError, Stopped

_Command = Callable[[Sequence[str] | None], None]


def guarded(run: _Command) -> Callable[[Sequence[str] | None], int]:
    """A command that answers bad input with one sentence and exit code 2, and a signal with 128 and its number."""

    def answered(args: Sequence[str] | None = None) -> int:
        _silence_advertisements()
        try:
            run(args)
        except Stopped as stop:
            if getattr(rank_zero_only, "rank", 0) == 0:
                print(stop, file=sys.stderr)
            return stop.exit_code
        except Exception as error:
            sentence = _sentence(error)
            if sentence is None:
                raise
            print(f"error: {sentence}", file=sys.stderr)
            return 2
        return 0

    return answered


def _sentence(error: BaseException | None) -> str | None:
    """What to tell the user of an exception, or None where it is no matter of the user's.

    Looks through what the exception was raised from: the parser wraps the errors of the classes it makes.
    """
    while error is not None:
        if isinstance(error, InputError):
            return str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            place = error.filename2 or error.filename or "the run's folder"
            return f"no space left on disk to write {place}: free some, or pass --runs a folder on another disk"
        error = error.__cause__ or error.__context__
    return None


def _silence_advertisements() -> None:
    """Leave out what Lightning prints that helps nobody who runs our commands."""
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message=r".*LightningCLI's args parameter is intended to run from within Python")
    warnings.filterwarnings("ignore", message=r".*does not have many workers")  # indices need none
    warnings.filterwarnings("ignore", message=r".*overridden `on_before_batch_transfer` in `LightningModule`")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
