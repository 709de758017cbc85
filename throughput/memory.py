"""The peak memory of a MAML training step, measured for each variant in its own process."""

import ctypes
import multiprocessing
import re
import statistics
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch

from fewshot_pl.freed_memory import keep_freed_memory
from throughput.learn2learn_way import batches_of, maml_network, maml_step
from throughput.our_way import bare_step, episodes, maml
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, Work

_TASK = Task("CIFARFS", 5, 5, 15)
_TASKS_PER_STEP = 4
_STEPS = 3  # not all memory of the first is available again when the second asks for more


def work(setting: Setting) -> Iterator[Work]:
    """The rates are steps that would fit into a GiB, so more is better, as everywhere."""
    for num_steps in (1, 5, 20)[: setting.amount(3, 2)]:
        name = f"Memory of MAML, {_TASK}, {num_steps} inner steps, {_TASKS_PER_STEP} tasks"
        yield Work(name, partial(_of, setting, name, num_steps))


def _of(setting: Setting, name: str, num_steps: int) -> Iterator[Comparison]:
    kept = [_peak(setting, _ours, num_steps, False) for _ in range(setting.repeats)]
    again = [_peak(setting, _ours, num_steps, True) for _ in range(setting.repeats)]
    theirs = [_peak(setting, _theirs, num_steps, False) for _ in range(setting.repeats)]
    yield _compared(f"{name}, against learn2learn", kept, theirs)
    yield _compared(f"{name}, steps made again, against steps kept", again, kept)


def _compared(name: str, ours: list[float], peer: list[float]) -> Comparison:
    ratios = [their / our for our, their in zip(ours, peer, strict=True)]
    medians = [1024 / statistics.median(side) for side in (ours, peer)]
    spread = min(ratios), max(ratios)
    return Comparison(name, "steps/GiB", medians[0], medians[1], statistics.median(ratios), spread, len(ours))


def _peak(setting: Setting, side: Callable[..., Callable[[], Any]], num_steps: int, again: bool) -> float:
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(memory_of_steps, (setting, side, num_steps, again))


def memory_of_steps(setting: Setting, side: Callable[..., Callable[[], Any]], num_steps: int, again: bool) -> float:
    """The peak memory of steps, in MiB, beyond what this process held before the first."""
    step = side(setting, num_steps, again)
    _forget_peak(setting.device)
    before = _peak_bytes(setting.device)
    for _ in range(_STEPS):
        step()
    return (_peak_bytes(setting.device) - before) / 2**20


def _forget_peak(device: torch.device) -> None:
    """Reset the peak to what is held now, as that of the set-up may be higher than the steps'."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    else:
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # only on Linux


def _peak_bytes(device: torch.device) -> int:
    """The most bytes held since the peak was last reset."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    (kilobytes,) = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
    return int(kilobytes) * 2**10


def _ours(setting: Setting, num_steps: int, again: bool) -> Callable[[], Any]:
    keep_freed_memory()
    model = maml(_TASK, Adaptation(num_steps, first_order=False), recompute_inner_steps=again, task_chunk=1)
    step = bare_step(model.to(setting.device))
    episode = next(episodes(setting.data(_TASK, tasks_per_batch=_TASKS_PER_STEP), setting.device))
    return lambda: step(episode)


def _theirs(setting: Setting, num_steps: int, again: bool) -> Callable[[], Any]:
    step = maml_step(maml_network(_TASK), Adaptation(num_steps, first_order=False), _TASK, setting.device)
    episode = next(episodes(setting.data(_TASK, tasks_per_batch=_TASKS_PER_STEP), setting.device))
    tasks = batches_of(episode)
    return lambda: step(tasks)
