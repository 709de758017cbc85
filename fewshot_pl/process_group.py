"""The group of processes that train together, one for each device."""

import torch


def leave_process_group() -> None:
    """Say goodbye to the other processes, if any: Lightning does so on GPUs alone.

    The threads by which processes on CPUs talk would otherwise outlive the interpreter, which now and then aborts.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()
