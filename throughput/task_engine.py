"""MAML's and Reptile's training steps, by the way they map over tasks."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from throughput.maml import bare_rate
from throughput.our_way import episodes, maml, reptile
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, Rate, Work, compared

_TASKS_OF_REPTILE = 5  # per step, as in the paper


def work(setting: Setting) -> Iterator[Work]:
    """Here, ours is default or compiled training, and the peer is our training in a loop, by vmap or by default."""
    tasks = Task("Omniglot", 5, 1, 15), Task("CIFARFS", 5, 1, 15), Task("CIFARFS", 5, 5, 15)
    for task, num_steps, first_order in product(tasks, (1, 5), (False, True)):
        if setting.quick and (task.num_shots, num_steps, first_order) != (1, 1, False):
            continue
        adaptation = Adaptation(num_steps, first_order)
        yield Work(f"Task engine, MAML, {task}, {adaptation}", partial(_maml, setting, task, adaptation))
    for benchmark in ("Omniglot", "CIFARFS"):
        task = Task(benchmark, 5, 5, 5)  # it trains on all images of the task, as many as in the paper
        yield Work(f"Task engine, Reptile, {task}", partial(_reptile, setting, task))


def _maml(setting: Setting, task: Task, adaptation: Adaptation) -> Iterator[Comparison]:
    data = setting.data(task, tasks_per_batch=setting.meta_batch)
    episode = next(episodes(data, setting.device))

    def trained(**settings: Any) -> Rate:
        return bare_rate(setting, maml(task, adaptation, **settings), episode)

    name = f"MAML, {task}, {adaptation}"
    yield from _mapped(setting, name, trained)
    if (task.num_shots, adaptation.num_steps, adaptation.first_order) != (1, 1, False):  # compiling takes a minute
        return
    compiled = trained(compile=True)
    yield compared(f"{name}, --model.compile true against without", "tasks/s", compiled, trained(), setting.repeats)


def _reptile(setting: Setting, task: Task) -> Iterator[Comparison]:
    data = setting.data(task, tasks_per_batch=_TASKS_OF_REPTILE)
    episode = next(episodes(data, setting.device))

    def trained(**settings: Any) -> Rate:
        return bare_rate(setting, reptile(task, **settings), episode, steps_on_cpu=10)

    yield from _mapped(setting, f"Reptile, {task}", trained)


def _mapped(setting: Setting, name: str, trained: Callable[..., Rate]) -> Iterator[Comparison]:
    as_it_comes, in_a_loop = trained(), trained(task_parallel="loop")
    yield compared(f"{name}, as it comes against a loop", "tasks/s", as_it_comes, in_a_loop, setting.repeats)
    if setting.device.type != "cpu":  # where it is far slower
        vmapped = trained(task_parallel="vmap")
        yield compared(f"{name}, as it comes against vmap", "tasks/s", as_it_comes, vmapped, setting.repeats)
