"""A loop over tasks, several at a time, each on its own thread with a copy of the network's structure."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import cache
from queue import SimpleQueue
from threading import Barrier
from typing import TypeVar

import torch
from torch import Tensor, nn

from fewshot_pl.algorithms.structure_copies import structure_copies
from fewshot_pl.errors import InputError
from fewshot_pl.functional.random_draws import refused_draws

Result = TypeVar("Result")


def one_by_one(
    network: nn.Module, function: Callable[..., Result], tasks: Sequence[tuple[Tensor, ...]], num_threads: int
) -> Iterator[Result]:
    """``function(network, *task)`` for each task in turn, computed ``num_threads`` at a time.

    Torch's threads are divided among the tasks: within the small layers of one task they would wait for each other,
    whereas tasks do not.

    Args:
        network: every thread gets a copy that shares its tensors, because a pass sets state on the layers; if it cannot
            be copied, tasks are computed one at a time.
        function: a function of a network and one task; must not draw random numbers, whose order would vary.
        tasks: the arguments of each.
        num_threads: how many tasks at a time.

    Raises:
        InputError: random numbers were drawn on several threads in training.
    """
    copies = structure_copies(network, num_threads) if num_threads > 1 else None
    if copies is None:
        return (function(network, *task) for task in tasks)
    networks: SimpleQueue[nn.Module] = SimpleQueue()
    for copy in copies:
        networks.put(copy)
    device = tasks[0][0].device
    precision = device.type, torch.get_autocast_dtype(device.type), torch.is_autocast_enabled(device.type)
    gradients = torch.is_grad_enabled()

    def run(task: tuple[Tensor, ...]) -> Result:
        taken = networks.get()
        try:
            with torch.set_grad_enabled(gradients), torch.autocast(*precision):  # modes are per thread
                return function(taken, *task)
        finally:
            networks.put(taken)

    pool = _pool(os.getpid(), num_threads, max(1, torch.get_num_threads() // num_threads))

    def results() -> Iterator[Result]:
        ordered = refused_draws(device, _unordered_draws()) if network.training else nullcontext()
        with ordered, _one_thread():
            yield from pool.map(run, tasks)

    return results()


@contextmanager
def _one_thread() -> Iterator[None]:
    """A context in which what the caller does with results has one thread.

    After an operation of several, OpenMP's threads spin for milliseconds, on the cores that the other tasks need.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _unordered_draws() -> InputError:
    return InputError(
        "the model draws random numbers, such as by F.dropout, which the tasks of several threads would share out "
        "differently each time: pass --model.task_parallel loop"
    )


@cache
def _pool(process: int, num_threads: int, threads_of_each: int) -> ThreadPoolExecutor:
    """A pool of threads with ``threads_of_each`` torch threads each; one per process, as a fork has no threads."""
    before = torch.get_num_threads()
    everybody = Barrier(num_threads)

    def start() -> None:
        torch.get_num_threads()  # torch's first call in a thread resets the number, which would undo the next line
        torch.set_num_threads(threads_of_each)
        everybody.wait()

    pool = ThreadPoolExecutor(num_threads, "tasks", start)
    list(pool.map(lambda _: everybody.wait(), range(num_threads)))  # each thread runs one of these, so all have started
    torch.set_num_threads(before)  # the calls had changed it for threads to come, not for this one
    return pool
