"""Processes forked from a test's, which import nothing again, each with the rank that a launcher would give it."""

import os
import socket
import time

import torch
from pytorch_lightning.utilities import rank_zero_only
from torch.multiprocessing import start_processes

from fewshot_pl.process_group import leave_process_group

_PATIENCE = 240  # seconds


def torchrun(rank, count, address):
    """The environment variables of a process that torchrun starts, with all processes on one machine."""
    place = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "WORLD_SIZE": count}
    return {"TORCHELASTIC_RUN_ID": "test", **place, **address}


def slurm(rank, count, address):
    """The environment variables of a process that srun starts, with each process on its own machine."""
    job = {"JOB_ID": "1", "JOB_NAME": "train", "NTASKS": count, "NTASKS_PER_NODE": "1", "NNODES": count}
    place = {"PROCID": rank, "LOCALID": "0", "NODEID": rank}
    return {**{f"SLURM_{name}": value for name, value in {**job, **place}.items()}, **address}


def in_forks(count, work, *arguments, launcher=torchrun):
    """Run ``work(*arguments)`` in ``count`` processes, and raise what any of them raises."""
    address = {"MASTER_ADDR": "localhost", "MASTER_PORT": free_port()}
    places = [launcher(str(rank), str(count), address) for rank in range(count)]
    forks = start_processes(_run, (places, work, arguments), count, join=False, start_method="fork")
    until = time.monotonic() + _PATIENCE
    try:
        while not forks.join(timeout=1):
            assert time.monotonic() < until, "the processes wait for each other"
    finally:
        for process in forks.processes:
            process.kill()


def _run(rank, places, work, arguments):
    os.environ.update(places[rank])
    rank_zero_only.rank = rank  # which Lightning reads from the environment when it is imported
    torch.set_num_threads(1)  # threads do not survive a fork
    work(*arguments)
    leave_process_group()


def free_port():
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return str(free.getsockname()[1])
