"""The group of processes that train together, one for each device."""

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from fewshot_pl.errors import InputError


def check_processes(trainer: Trainer) -> None:
    """Raise InputError if a strategy would fork or spawn even the first process of a training from this one.

    Lightning then brings back weights and figures, but neither the state of callbacks and metrics nor the benchmark.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise InputError(
            f"--trainer.strategy starts processes by {launcher._start_method}, whose results do not come back: "
            "pass --trainer.strategy ddp"
        )


def num_devices(trainer: Trainer) -> int:
    """The number of devices that a Trainer uses, known even before it starts their processes."""
    return int(trainer.num_devices * trainer.num_nodes)


def are_started_by_others(trainer: Trainer) -> bool:
    """Whether a launcher such as srun or torchrun started all processes, rather than this one the others.

    They then all exist before training starts, and wait for each other for half an hour at most.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is not None and bool(environment.creates_processes_externally)


def leave_process_group() -> None:
    """Leave the other processes, if any: Lightning does so only on GPUs.

    The threads through which CPU processes communicate would otherwise outlive the interpreter, which may then abort.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
