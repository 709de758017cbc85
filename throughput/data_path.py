"""Episodes per second, from the source of the images to tensors on the device."""

import multiprocessing
from collections.abc import Iterator
from functools import partial
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler

from throughput.apart import compared_apart
from throughput.image_files import image_dataset
from throughput.learn2learn_way import samples, taskset
from throughput.our_way import episodes
from throughput.setting import Setting, Task
from throughput.timing import Comparison, Rate, Work, rate

TASKS = (Task("Omniglot", 5, 1, 15), Task("Omniglot", 20, 1, 15), Task("CIFARFS", 5, 1, 15))
_TASKS_PER_BATCH = 32


def work(setting: Setting) -> Iterator[Work]:
    for task in TASKS:
        yield Work(f"Data path, {task}", partial(_of, setting, task))


def _of(setting: Setting, task: Task) -> Iterator[Comparison]:
    for name, peer in _peers(setting, task):
        yield compared_apart(setting, f"Data path, {task}, against {name}", "episodes/s", _ours(setting, task), peer)


def _ours(setting: Setting, task: Task) -> Rate:
    data = setting.data(task, tasks_per_batch=_TASKS_PER_BATCH)
    return _rate_of(setting, episodes(data, setting.device), setting.amount(40, 2), _TASKS_PER_BATCH)


def _rate_of(setting: Setting, batches: Iterator[Any], count: int, tasks_per_batch: int = 1) -> Rate:
    def taken() -> None:
        for _ in islice(batches, count):
            pass

    return lambda: rate(taken, count * tasks_per_batch, setting.device)


def _peers(setting: Setting, task: Task) -> Iterator[tuple[str, Rate]]:
    files = _on_device(setting, samples(taskset(setting, task)))
    yield "learn2learn's Taskset of image files", _rate_of(setting, files, setting.amount(20))
    tensors = samples(taskset(setting, task, on_device=True))
    yield "learn2learn's Taskset on OnDeviceDataset", _rate_of(setting, tensors, setting.amount(60))
    files_of = image_dataset(setting, task)
    how = multiprocessing.get_all_start_methods()[0]  # the system's default: this process itself may have been spawned
    loader = DataLoader(files_of, batch_sampler=_Episodes(setting, task), num_workers=2, multiprocessing_context=how)
    loaded = _on_device(setting, iter(loader))
    yield "a DataLoader of image files with 2 workers", _rate_of(setting, loaded, setting.amount(60))


def _on_device(setting: Setting, batches: Iterator[Any]) -> Iterator[Any]:
    return ([part.to(setting.device) for part in batch] for batch in batches)


class _Episodes(Sampler[list[int]]):
    """Yields the image numbers of fresh episodes, without end."""

    def __init__(self, setting: Setting, task: Task) -> None:
        labels = torch.tensor(image_dataset(setting, task).targets)
        self._classes = [torch.nonzero(labels == label).flatten() for label in range(int(labels.max()) + 1)]
        self._task = task

    def __iter__(self) -> Iterator[list[int]]:
        per_class = self._task.num_shots + self._task.num_queries
        while True:
            ways = torch.randperm(len(self._classes))[: self._task.num_ways].tolist()
            yield [
                number
                for way in ways
                for number in self._classes[way][torch.randperm(len(self._classes[way]))[:per_class]].tolist()
            ]
