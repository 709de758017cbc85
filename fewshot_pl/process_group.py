"""The group of processes that train together, one for each device."""

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.strategies.launchers import _MultiProcessingLauncher

from fewshot_pl.errors import InputError


def check_processes(trainer: Trainer) -> None:
    """Raise InputError where not this process is to be the first of several, but one that is forked or spawned from it.

    Lightning then brings back weights and figures, and neither what callbacks and metrics hold nor the benchmark.
    """
    launcher = trainer.strategy.launcher
    if isinstance(launcher, _MultiProcessingLauncher):
        raise InputError(
            f"--trainer.strategy makes processes by {launcher._start_method}, and what they find stays in them: "
            "pass --trainer.strategy ddp"
        )


def num_devices(trainer: Trainer) -> int:
    """How many devices a Trainer uses, also before it has started their processes."""
    return int(trainer.num_devices * trainer.num_nodes)


def are_started_by_others(trainer: Trainer) -> bool:
    """Whether not this process started the others, but a launcher all of them, as srun and torchrun do.

    They are all there then before training starts, and wait for each other half an hour at most.
    """
    environment = getattr(trainer.strategy, "cluster_environment", None)
    return environment is not None and bool(environment.creates_processes_externally)


def leave_process_group() -> None:
    """Say goodbye to the other processes, if any: Lightning does so on GPUs alone.

    The threads by which processes on CPUs talk would otherwise outlive the interpreter, which now and then aborts.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
