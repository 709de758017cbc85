"""The guard around a command: users' mistakes become one sentence, and advertisements are silenced."""

import atexit
import errno
import io
import logging
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType

import torch
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Trainer
from pytorch_lightning.profilers import Profiler
from pytorch_lightning.utilities import rank_zero_only

from fewshot_pl.errors import InputError, Stopped
from fewshot_pl.printable import printable
from fewshot_pl.process_group import leave_process_group
from fewshot_pl.signals import ended_by_signals

# Errors of the user's path, not of ours: no permission, a name too long, a file in place of a folder ...
_PLACE = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP}
_PLACE |= {errno.EEXIST, errno.ENXIO, errno.ENOTEMPTY}
_LIGHTNING = "pytorch_lightning", "lightning_fabric"
_ALGORITHMS = "fewshot_pl.algorithms"
_Command = Callable[[Sequence[str] | None], None]
_OUT_OF_MEMORY = re.compile(r"out of memory|(can't|not enough|unable to) \w* ?memory|ALLOC_FAILED", re.IGNORECASE)
_NOT_INSTALLED = re.compile(r"Requirement '([^']+)' not met")  # as Lightning says it, also where the parser quotes it
_NO_FIGURE = "Early stopping conditioned on metric"  # a RuntimeError, like many that the user cannot cure


def guarded(run: _Command, places: str = "the flag for it") -> Callable[[Sequence[str] | None], int]:
    """A command that answers bad input with one sentence and exit code 2, and a signal with 128 plus its number.

    Args:
        run: the command.
        places: its flags for where it writes, such as "--output or --report".
    """

    def answered(args: Sequence[str] | None = None) -> int:
        _silence_advertisements()
        _print_any_name()
        try:
            with ended_by_signals():
                run(args)
            exit_code = 0
        except Stopped as stop:
            if getattr(rank_zero_only, "rank", 0) == 0:
                print(stop, file=sys.stderr)
            exit_code = stop.exit_code
        except Exception as error:
            sentence = _sentence(error, places)
            if sentence is None:
                raise
            print(f"error: {printable(sentence)}", file=sys.stderr)
            return 2
        # Only at exit: a script may run another command, which needs the group, and it cannot be remade at once.
        atexit.register(leave_process_group)
        return exit_code

    return answered


@contextmanager
def within_memory(cure: str) -> Iterator[None]:
    """A context in which running out of memory, of the machine or a device, is reported with its cure.

    Args:
        cure: what to do, such as "lower A or B".

    Raises:
        InputError: the memory does not suffice.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not _is_out_of_memory(error):
            raise
        raise InputError(f"{_lack_of_memory(error)}: {cure}") from error


def _is_out_of_memory(error: BaseException) -> bool:
    if isinstance(error, MemoryError | torch.cuda.OutOfMemoryError):
        return True
    # The CPU's allocator, cuDNN and cuBLAS have no exception class for it.
    return isinstance(error, RuntimeError) and bool(_OUT_OF_MEMORY.search(str(error)))


def _lack_of_memory(error: BaseException) -> str:
    amount = re.search(r"allocate ([\d.]+ \w+)", str(error))
    return f"out of memory: {amount[1]} more did not fit" if amount else "out of memory"


def _sentence(error: BaseException | None, places: str) -> str | None:
    """The sentence that tells the user of an exception, or None if the user cannot cure it.

    Its causes are searched too, as the parser wraps the errors of the classes that it instantiates.
    """
    while error is not None:
        if isinstance(error, InputError):
            return str(error)
        if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            file = error.filename2 or error.filename or "what is to be saved"
            return f"no space left on disk to write {file}: free some, or pass {places} a place on another disk"
        if isinstance(error, RuntimeError) and "home directory" in str(error):
            return "there is no home folder that ~ would stand for: write the whole path"
        if missing := _NOT_INSTALLED.search(str(error)):
            return f"this needs {missing[1]}, which is not installed: pip install '{missing[1]}', or pass another value"
        if _is_lightnings(error):
            return f"{'; '.join(str(error).split('. ')).rstrip('.')}: pass another value"
        if isinstance(error, OSError) and error.errno in _PLACE and error.filename is not None:
            return f"{error.filename} cannot be used ({error.strerror}): give another place, or change what is there"
        if _is_out_of_memory(error):
            return f"{_lack_of_memory(error)}: ask for less at once, as by --data.eval_tasks_per_batch or --batch_size"
        error = error.__cause__ or error.__context__
    return None


def raised_in(error: BaseException, *packages: str) -> bool:
    """Whether an exception comes from a line of one of these packages, rather than from one that they call."""
    frames = _frames(error)
    return bool(frames) and _is_of(frames[-1], *packages)


def _is_lightnings(error: BaseException) -> bool:
    """Whether Lightning itself raised an exception, of a kind that it raises at flags it rejects."""
    frames = _frames(error)
    if _refused_by_torch(error, frames):
        return True
    if not frames or not _is_of(frames[-1], *_LIGHTNING):
        return False
    if isinstance(error, TypeError):  # anywhere else it may be a mistake in the code
        return any(_is_of(frame, Trainer.__module__) and frame.f_code.co_name == "__init__" for frame in frames)
    return isinstance(error, ValueError | MisconfigurationException) or str(error).startswith(_NO_FIGURE)


def _refused_by_torch(error: BaseException, frames: list[FrameType]) -> bool:
    """Whether an optimiser or a schedule refuses what Lightning, and no algorithm, asks of it."""
    if not isinstance(error, ValueError) or not raised_in(error, "torch.optim"):
        return False
    callers = [frame for frame in frames if not _is_of(frame, "torch")]
    return bool(callers) and _is_of(callers[-1], *_LIGHTNING) and not any(_is_of(one, _ALGORITHMS) for one in callers)


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in traceback.walk_tb(error.__traceback__)]


def _is_of(frame: FrameType, *packages: str) -> bool:
    return f"{frame.f_globals.get('__name__')}.".startswith(tuple(f"{package}." for package in packages))


def _silence_advertisements() -> None:
    """Silence messages of Lightning and torch that are of no use to users of our commands."""
    warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\)")
    warnings.filterwarnings("ignore", message=r".*LightningCLI's args parameter is intended to run from within Python")
    warnings.filterwarnings("ignore", message=r".*does not have many workers")  # indices need none
    warnings.filterwarnings("ignore", message=r"Checkpoint directory .* exists and is not empty")  # a run is resumed
    warnings.filterwarnings("ignore", message=r"Image size \(\d+ pixels\) exceeds limit")  # twice that is refused
    warnings.filterwarnings("ignore", message=r".*overridden `on_before_batch_transfer` in `LightningModule`")
    # We say this in other words.
    warnings.filterwarnings("ignore", message=r".*configure_optimizers` will be overridden by")
    # Logged figures already cover all devices.
    warnings.filterwarnings("ignore", message=r"It is recommended to use `self\.log\(.*sync_dist=True")
    # Gradients have the memory layout that convolutions gave them: several devices copy them, at little cost.
    warnings.filterwarnings("ignore", message=r"Grad strides do not match bucket view strides")
    logging.getLogger("pytorch_lightning.utilities.rank_zero").addFilter(_is_no_tip)
    Profiler._stage = Profiler._output_file = None  # else one that was refused complains when it is removed


def _print_any_name() -> None:
    """Print as escapes what the terminal cannot encode, such as the bytes of some file names."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")


def _is_no_tip(record: logging.LogRecord) -> bool:
    return "Tip:" not in record.getMessage()
