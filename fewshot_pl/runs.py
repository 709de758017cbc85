"""Where runs live: ``<runs>/<data>/<model>/<n>/``."""

from pathlib import Path

from fewshot_pl.checkpoints import existing_checkpoint
from fewshot_pl.errors import InputError

CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"


def new_run_folder(runs: Path, data: str, model: str) -> Path:
    """A folder of its own for a new run, numbered after the last one."""
    parent = runs / data / model
    parent.mkdir(parents=True, exist_ok=True)
    number = max(_run_numbers(parent), default=-1) + 1
    while True:  # a run that starts at the same time may take the number first
        try:
            (parent / str(number)).mkdir()
            return parent / str(number)
        except FileExistsError:
            number += 1


def checkpoint_to_resume(ckpt_path: str, runs: Path, data: str, model: str) -> Path:
    """The checkpoint that ``--ckpt_path`` names: a file, or ``last``: the newest run's last one.

    Raises:
        InputError: there is no such checkpoint.
    """
    if ckpt_path != "last":
        return existing_checkpoint(ckpt_path)
    parent = runs / data / model
    for number in sorted(_run_numbers(parent), reverse=True):
        if (last := parent / str(number) / CHECKPOINTS / LAST).is_file():
            return last
    raise InputError(f"no run under {parent} has a {LAST} to resume from: start one without --ckpt_path")


def run_of_checkpoint(checkpoint: Path) -> Path | None:
    """The run folder a checkpoint lies in, if it lies in one."""
    return checkpoint.parent.parent if checkpoint.parent.name == CHECKPOINTS else None


def _run_numbers(parent: Path) -> list[int]:
    return [int(path.name) for path in parent.glob("*") if path.name.isdigit()] if parent.is_dir() else []
