"""A loop over tasks, several at a time: each on a thread of its own, with a copy of the network's structure."""

import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from queue import SimpleQueue
from threading import Barrier
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Result = TypeVar("Result")


def one_by_one(
    network: nn.Module, function: Callable[..., Result], tasks: Sequence[tuple[Tensor, ...]], num_threads: int
) -> Iterator[Result]:
    """``function(network, *task)`` of each task in turn, computed ``num_threads`` at a time.

    Torch's threads are divided among them: in the small layers of a small task they would wait for each other, and
    tasks wait for nothing.

    Args:
        network: every thread has a copy that shares its tensors, since a pass notes on the layers what it does.
        function: of a network and one task. It draws no random numbers, whose order would be anybody's guess.
        tasks: the arguments of each.
        num_threads: how many tasks at a time.
    """
    if num_threads == 1:
        return (function(network, *task) for task in tasks)
    networks: SimpleQueue[nn.Module] = SimpleQueue()
    for _ in range(num_threads):
        networks.put(_shared_copy(network))
    device = tasks[0][0].device.type
    precision = device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device)
    gradients = torch.is_grad_enabled()

    def run(task: tuple[Tensor, ...]) -> Result:
        taken = networks.get()
        try:
            with torch.set_grad_enabled(gradients), torch.autocast(*precision):  # a thread has modes of its own
                return function(taken, *task)
        finally:
            networks.put(taken)

    threads_of_each = max(1, torch.get_num_threads() // num_threads)
    return _pool(os.getpid(), num_threads, threads_of_each).map(run, tasks)


def _shared_copy(module: nn.Module, copies: dict[nn.Module, nn.Module] | None = None) -> nn.Module:
    """A copy of a module and of those within, whose attributes, parameters and buffers are the originals.

    Args:
        module: to be copied.
        copies: what was copied of it before.
    """
    copies = {} if copies is None else copies
    if module not in copies:
        copied = copies[module] = module.__new__(type(module))
        vars(copied).update(vars(module))
        for name in ("_parameters", "_buffers"):
            vars(copied)[name] = dict(getattr(module, name))
        children: dict[str, Any] = {
            name: child and _shared_copy(child, copies) for name, child in module._modules.items()
        }
        vars(copied)["_modules"] = children
    return copies[module]


@cache
def _pool(process: int, num_threads: int, threads_of_each: int) -> ThreadPoolExecutor:
    """So many threads, each with so many of torch's; of a process, as a fork of it has no threads."""
    before = torch.get_num_threads()
    everybody = Barrier(num_threads)

    def start() -> None:
        torch.get_num_threads()  # at first torch gives a thread the number of all, and would undo the next line
        torch.set_num_threads(threads_of_each)
        everybody.wait()

    pool = ThreadPoolExecutor(num_threads, "tasks", start)
    list(pool.map(lambda _: everybody.wait(), range(num_threads)))  # each has one of these, so all have started
    torch.set_num_threads(before)  # for this thread nothing has changed, for threads to come it had
    return pool
