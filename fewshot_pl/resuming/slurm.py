"""SLURM jobs that are stopped and requeued: which run a job trains, and the request to requeue it."""

import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.plugins.environments.slurm import SLURMEnvironment
from pytorch_lightning import Trainer

from fewshot_pl.errors import Stopped
from fewshot_pl.whole_files import save_text

_NOTE = "slurm_job"  # a file in a run's folder


def requeue_signal(trainer: Trainer) -> signal.Signals | None:
    """The signal that a SLURM job is about to end; None outside SLURM, and where jobs are not to be requeued."""
    environment = trainer._accelerator_connector.cluster_environment
    if isinstance(environment, SLURMEnvironment) and environment.auto_requeue:
        return environment.requeue_signal
    return None


def ending_signals(trainer: Trainer) -> list[signal.Signals]:
    """The signals that tell a command to end, including SLURM's where there is one."""
    return [number for number in (signal.SIGINT, signal.SIGTERM, requeue_signal(trainer)) if number is not None]


def load_only_what_is_named(trainer: Trainer) -> None:
    """Make a Trainer load only the checkpoint that it is given, if any.

    In a SLURM job, a Trainer given none would load any ``hpc_ckpt_*.ckpt`` that was left in the working directory.
    """
    trainer._checkpoint_connector._select_ckpt_path = _named  # type: ignore[assignment, method-assign]


def _named(state_fn: Any, ckpt_path: Any, **_: Any) -> Any:
    return ckpt_path


@contextmanager
def queued_again(trainer: Trainer) -> Iterator[None]:
    """A context that requeues the job where SLURM's signal that it is about to end stops what runs inside."""
    try:
        yield
    except Stopped as stop:
        if stop.number == requeue_signal(trainer) and trainer.is_global_zero:
            raise Stopped(f"{stop}; {_request()}", stop.number) from None
        raise


def _request() -> str:
    """Ask SLURM to requeue this job; returns the outcome in one sentence."""
    job = os.environ["SLURM_JOB_ID"]
    try:
        asked = subprocess.run(["scontrol", "requeue", job], capture_output=True, text=True)
    except OSError as error:
        return f"SLURM was not asked to queue job {job} again, as scontrol cannot be run: {error}"
    if asked.returncode:
        return f"SLURM did not queue job {job} again: {asked.stderr.strip()}"
    return f"SLURM queues job {job} again, which then goes on by itself"


def note_job(run_folder: Path) -> None:
    """Note in a run's folder which SLURM job trains it now, if any."""
    if job := _job():
        save_text(job, run_folder / _NOTE)


def is_run_of_requeued_job(run_folder: Path) -> bool:
    """Whether this is a requeued SLURM job that trained the run before."""
    note = run_folder / _NOTE
    restarted = int(os.environ.get("SLURM_RESTART_COUNT", 0)) > 0
    return restarted and note.is_file() and note.read_text("utf-8") == _job()


def _job() -> str | None:
    return os.environ.get("SLURM_JOB_ID") if SLURMEnvironment.detect() else None
