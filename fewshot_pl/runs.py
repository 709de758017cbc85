"""Where runs live: ``<runs>/<data>/<model>/<n>/``."""

import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from pytorch_lightning.utilities import rank_zero_info

from fewshot_pl.checkpoints import existing_checkpoint, opened_checkpoint
from fewshot_pl.errors import InputError

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"


def new_run_folder(runs: Path, data: str, model: str) -> Path:
    """The folder made for a new run, numbered after the last one."""
    parent = runs / data / model
    number = max(_run_numbers(parent), default=-1) + 1
    while True:  # a run that starts at the same time may take the number first
        try:
            (parent / str(number)).mkdir(parents=True)
            return parent / str(number)
        except FileExistsError:
            number += 1


def remove_run(folder: Path, kept: Path) -> None:
    """Remove the folder of a failed run, and those above it that this leaves empty, up to one that is kept.

    Args:
        folder: the folder of the run.
        kept: a folder above it, which stays even if empty, as do those above.
    """
    shutil.rmtree(folder, ignore_errors=True)  # the user is told why the run failed, not that files remain
    for above in folder.parents[: len(folder.relative_to(kept).parts) - 1]:
        with suppress(OSError):  # another run is there, or removed it first
            above.rmdir()


def nearest_folder(path: Path) -> Path:
    """The folder itself, or the nearest one above it that exists."""
    return next(one for one in (path, *path.parents) if one.is_dir())


def checkpoint_to_resume(ckpt_path: str | None, parent: Path, is_requeued: Callable[[Path], bool]) -> Path | None:
    """The checkpoint to resume training from, if any.

    Args:
        ckpt_path: the value of ``--ckpt_path``: a file, or ``last`` for the last one of the newest run.
        parent: folder of the runs of the same algorithm and benchmark.
        is_requeued: whether the run in a folder is of this cluster job, which has been requeued. Such a run resumes
            from its newest checkpoint whatever ``ckpt_path`` says, as a requeued job repeats its command.

    Raises:
        InputError: there is no such checkpoint, or all those of the newest run are damaged.
    """
    named = existing_checkpoint(ckpt_path) if ckpt_path and ckpt_path != "last" else None
    if named and (run := run_of_checkpoint(named)) and is_requeued(run):
        parent = run.parent  # which may not be below --runs
    found = newest_checkpoint(parent, is_requeued) or named
    if found or not ckpt_path:
        return found
    if last := newest_checkpoint(parent):
        return last
    raise InputError(f"no run under {parent} has a {LAST} to resume from: start one without --ckpt_path")


def newest_checkpoint(parent: Path, belongs: Callable[[Path], bool] = Path.is_dir) -> Path | None:
    """The last checkpoint of the newest run that has any; if it is damaged, the newest intact one of that run.

    Args:
        parent: folder of the runs.
        belongs: whether to consider the run in a folder.

    Raises:
        InputError: all checkpoints of that run are damaged.
    """
    for number in sorted(_run_numbers(parent), reverse=True):
        run = parent / str(number)
        if belongs(run) and (files := _newest_first(run / CHECKPOINTS)):
            return _first_whole(files)
    return None


def _newest_first(folder: Path) -> list[Path]:
    last = folder / LAST
    others = sorted(set(folder.glob("*.ckpt")) - {last}, key=lambda path: path.stat().st_mtime, reverse=True)
    return [last, *others] if last.is_file() else others


def _first_whole(files: list[Path]) -> Path:
    for file in files:
        try:
            opened_checkpoint(file)
        except InputError:
            continue
        if file != files[0]:
            rank_zero_info(f"{files[0]} is damaged: training goes on from {file} instead, which takes longer")
        return file
    raise InputError(f"all checkpoints in {files[0].parent} are damaged: start a run without --ckpt_path")


def run_of_checkpoint(checkpoint: Path) -> Path | None:
    """The run folder that a checkpoint is in; None where it is not in one."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else None


def _run_numbers(parent: Path) -> list[int]:
    return [int(path.name) for path in parent.glob("*") if path.name.isdigit()] if parent.is_dir() else []
