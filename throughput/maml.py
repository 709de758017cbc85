"""The training tasks per second of MAML, and of ANIL and Meta-SGD."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice, product
from typing import NamedTuple

import torch

from fewshot_pl.algorithms import ANIL, MAML, FewShotAlgorithm, MetaSGD
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode
from throughput.apart import compared_apart
from throughput.learn2learn_way import (
    Step,
    anil_step,
    batches_of,
    maml_network,
    maml_step,
    meta_sgd_step,
    samples,
    taskset,
)
from throughput.our_way import bare_step, episodes, maml, trained_rate
from throughput.process_per_core import process_per_core_rate
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, Rate, Work, rate


class Kind(NamedTuple):
    """A task, how an algorithm adapts to it, and learn2learn's step of the algorithm."""

    task: Task
    adaptation: Adaptation
    algorithm: type[MAML] = MAML
    their_step: Callable[..., Step] = maml_step

    def __str__(self) -> str:
        return f"{self.algorithm.__name__}, {self.task}, {self.adaptation}"

    def ours(self) -> MAML:
        """Our algorithm, untrained."""
        return maml(self.task, self.adaptation, self.algorithm)

    def theirs(self, device: torch.device) -> Step:
        """The optimisation step of learn2learn's, untrained."""
        return self.their_step(maml_network(self.task), self.adaptation, self.task, device)


def work(setting: Setting) -> Iterator[Work]:
    tasks = [Task(benchmark, 5, shots, 15) for benchmark in ("Omniglot", "CIFARFS") for shots in (1, 5)]
    for num_steps, first_order, task in product((1, 5), (False, True), tasks):
        if setting.quick and (task.num_shots, num_steps) != (1, 1):
            continue
        kind = Kind(task, Adaptation(num_steps, first_order))
        yield Work(str(kind), partial(_of, setting, kind))


def work_of_variants(setting: Setting) -> Iterator[Work]:
    # Of learn2learn's network for Omniglot, whose layers have two names each, its MetaSGD adapts the head alone.
    for task in [Task("CIFARFS", 5, shots, 15) for shots in ((1,) if setting.quick else (1, 5))]:
        for algorithm, their_step, num_steps in ((ANIL, anil_step, 5), (MetaSGD, meta_sgd_step, 1)):
            kind = Kind(task, Adaptation(num_steps, first_order=False), algorithm, their_step)
            yield Work(str(kind), partial(_of, setting, kind))


def _of(setting: Setting, kind: Kind) -> Iterator[Comparison]:
    data = setting.data(kind.task, tasks_per_batch=setting.meta_batch)
    yield from _end_to_end(setting, kind, data)
    yield _given_tensors(setting, kind, data)


def _end_to_end(setting: Setting, kind: Kind, data: ImageDataModule) -> Iterator[Comparison]:
    tasks_per_step, count = data.tasks_per_batch, setting.steps(1)
    step = kind.theirs(setting.device)
    sampled = samples(taskset(setting, kind.task))

    def ours() -> float:
        return trained_rate(kind.ours(), data, count, setting)

    def ours_per_core() -> float:
        steps = setting.amount(max(1, 8 // kind.adaptation.num_steps))  # several, as the processes wait for each other
        return process_per_core_rate(setting, kind.task, kind.adaptation, tasks_per_step, steps)

    def theirs() -> float:
        return rate(lambda: step(list(islice(sampled, tasks_per_step))), tasks_per_step, setting.device)

    yield compared_apart(setting, f"{kind}, end to end", "tasks/s", ours, theirs)
    if setting.device.type == "cpu" and kind.algorithm is MAML:
        yield compared_apart(setting, f"{kind}, a process per core, end to end", "tasks/s", ours_per_core, theirs)


def _given_tensors(setting: Setting, kind: Kind, data: ImageDataModule) -> Comparison:
    episode = next(episodes(data, setting.device))
    batches = batches_of(episode)
    step = kind.theirs(setting.device)

    def theirs() -> float:
        return rate(lambda: step(batches), len(batches), setting.device)

    ours = bare_rate(setting, kind.ours(), episode)
    return compared_apart(setting, f"{kind}, given the same tensors", "tasks/s", ours, theirs)


def bare_rate(setting: Setting, model: FewShotAlgorithm, episode: Episode, steps_on_cpu: int = 1) -> Rate:
    """The training tasks per second of a model on an Episode, without the Trainer; ``steps_on_cpu`` steps on a CPU."""
    step, count = bare_step(model.to(setting.device)), setting.steps(steps_on_cpu)
    return lambda: rate(lambda: [step(episode) for _ in range(count)], count * episode.num_tasks, setting.device)
