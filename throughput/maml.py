"""MAML's training tasks a second."""

from collections.abc import Iterator
from itertools import islice, product
from typing import Any

from throughput.apart import compared_apart
from throughput.learn2learn_way import batches_of, maml_network, maml_step, samples, taskset
from throughput.our_way import bare_step, episodes, maml, trained_rate
from throughput.setting import Setting, Task
from throughput.timing import Comparison, Rate, rate

TASKS_PER_STEP = 32
INNER_LR = 0.1


def comparisons(setting: Setting) -> Iterator[Comparison]:
    tasks = [Task(benchmark, 5, shots, 15) for benchmark in ("Omniglot", "CIFARFS") for shots in (1, 5)]
    for num_steps, first_order, task in product((1, 5), (False, True), tasks):
        if setting.quick and (task.num_shots, num_steps) != (1, 1):
            continue
        yield from _of(setting, task, num_steps, first_order)


def _of(setting: Setting, task: Task, num_steps: int, first_order: bool) -> Iterator[Comparison]:
    tasks_per_step = setting.amount(TASKS_PER_STEP, 4)
    count = 1 if setting.device.type == "cpu" else setting.amount(4)  # optimisation steps to a rate; on CPUs slow
    what = f"{task}, {num_steps} inner steps, {'first' if first_order else 'second'} order"
    data = setting.data(task, tasks_per_batch=tasks_per_step, batches_per_epoch=1_000_000)
    theirs = maml_step(maml_network(task), INNER_LR, num_steps, first_order, task, setting.device)
    sampled = samples(taskset(setting, task))

    def ours_whole() -> float:
        return trained_rate(maml(task, INNER_LR, num_steps, first_order), data, count, setting)

    def theirs_whole() -> float:
        def steps() -> None:
            for _ in range(count):
                theirs(list(islice(sampled, tasks_per_step)))

        return rate(steps, count * tasks_per_step, setting.device)

    yield compared_apart(setting, f"MAML, {what}, end to end", "tasks/s", ours_whole, theirs_whole)

    episode = next(episodes(data, setting.device))
    batches = batches_of(episode)

    def ours_bare(**settings: Any) -> Rate:
        step = bare_step(maml(task, INNER_LR, num_steps, first_order, **settings).to(setting.device))
        return lambda: rate(lambda: [step(episode) for _ in range(count)], count * tasks_per_step, setting.device)

    def theirs_bare() -> float:
        return rate(lambda: [theirs(batches) for _ in range(count)], count * tasks_per_step, setting.device)

    yield compared_apart(setting, f"MAML, {what}, given the same tensors", "tasks/s", ours_bare(), theirs_bare)
    if (num_steps, first_order, task.num_shots) != (1, False, 1):  # compiling takes a minute
        return
    name = f"MAML, {what}, --model.compile true, given the same tensors"
    yield compared_apart(setting, name, "tasks/s", ours_bare(compile=True), theirs_bare)
