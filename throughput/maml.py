"""MAML's training tasks per second."""

from collections.abc import Iterator
from functools import partial
from itertools import islice, product

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode
from throughput.apart import compared_apart
from throughput.learn2learn_way import batches_of, maml_network, maml_step, samples, taskset
from throughput.our_way import bare_step, episodes, maml, trained_rate
from throughput.process_per_core import process_per_core_rate
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, Rate, Work, rate


def work(setting: Setting) -> Iterator[Work]:
    tasks = [Task(benchmark, 5, shots, 15) for benchmark in ("Omniglot", "CIFARFS") for shots in (1, 5)]
    for num_steps, first_order, task in product((1, 5), (False, True), tasks):
        if setting.quick and (task.num_shots, num_steps) != (1, 1):
            continue
        adaptation = Adaptation(num_steps, first_order)
        yield Work(f"MAML, {task}, {adaptation}", partial(_of, setting, task, adaptation))


def _of(setting: Setting, task: Task, adaptation: Adaptation) -> Iterator[Comparison]:
    data = setting.data(task, tasks_per_batch=setting.meta_batch)
    yield from _end_to_end(setting, task, adaptation, data)
    yield from _given_tensors(setting, task, adaptation, data)


def _end_to_end(setting: Setting, task: Task, adaptation: Adaptation, data: ImageDataModule) -> Iterator[Comparison]:
    tasks_per_step, count = data.tasks_per_batch, setting.steps(1)
    step = maml_step(maml_network(task), adaptation, task, setting.device)
    sampled = samples(taskset(setting, task))

    def ours() -> float:
        return trained_rate(maml(task, adaptation), data, count, setting)

    def ours_per_core() -> float:
        steps = setting.amount(max(1, 8 // adaptation.num_steps))  # several, as the processes wait for each other
        return process_per_core_rate(setting, task, adaptation, tasks_per_step, steps)

    def theirs() -> float:
        return rate(lambda: step(list(islice(sampled, tasks_per_step))), tasks_per_step, setting.device)

    name = f"MAML, {task}, {adaptation}"
    yield compared_apart(setting, f"{name}, end to end", "tasks/s", ours, theirs)
    if setting.device.type == "cpu":
        yield compared_apart(setting, f"{name}, a process per core, end to end", "tasks/s", ours_per_core, theirs)


def _given_tensors(setting: Setting, task: Task, adaptation: Adaptation, data: ImageDataModule) -> Iterator[Comparison]:
    episode = next(episodes(data, setting.device))
    batches = batches_of(episode)
    step = maml_step(maml_network(task), adaptation, task, setting.device)

    def theirs() -> float:
        return rate(lambda: step(batches), len(batches), setting.device)

    ours = bare_rate(setting, maml(task, adaptation), episode)

    name = f"MAML, {task}, {adaptation}"
    yield compared_apart(setting, f"{name}, given the same tensors", "tasks/s", ours, theirs)


def bare_rate(setting: Setting, model: FewShotAlgorithm, episode: Episode, steps_on_cpu: int = 1) -> Rate:
    """The training tasks per second of a model on an Episode, without the Trainer; ``steps_on_cpu`` steps on a CPU."""
    step, count = bare_step(model.to(setting.device)), setting.steps(steps_on_cpu)
    return lambda: rate(lambda: [step(episode) for _ in range(count)], count * episode.num_tasks, setting.device)
