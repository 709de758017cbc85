"""How close training comes to its limits: the bare step, the network on the same images in one batch, convolutions.

And how little the making of its tasks takes, beside its steps.
"""

import time
from collections.abc import Iterator
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from fewshot_pl.backbones import build_backbone
from fewshot_pl.data.image_datamodule import ImageDataModule
from throughput.our_way import Build, bare_step, episodes, maml, protonet, trained_rate
from throughput.precision import tf32_allowed
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, Work, compared, rate

_PEAK = {"H100": 67e12, "H200": 67e12, "A100": 19.5e12}  # float32 operations per second, from the vendor's data sheets


class _Training(NamedTuple):
    name: str
    task: Task
    build: Build
    tasks_per_step: int

    def __str__(self) -> str:
        return f"{self.name}, {self.task}"

    def count(self, setting: Setting) -> int:
        """The number of steps that a rate is taken from."""
        return setting.steps(max(4, 4000 // (self.task.num_images * self.tasks_per_step)))

    def data(self, setting: Setting) -> ImageDataModule:
        return setting.data(self.task, tasks_per_batch=self.tasks_per_step)


def work(setting: Setting) -> Iterator[Work]:
    omniglot, colour = Task("Omniglot", 60, 1, 5), Task("CIFARFS", 20, 5, 15)
    small = Task("Omniglot", 5, 1, 15)
    one_step = partial(maml, small, Adaptation(1, first_order=False))
    trainings = [_Training("ProtoNet", task, partial(protonet, task), 1) for task in (omniglot, colour, small)]
    for training in (*trainings, _Training("MAML, 1 inner step", small, one_step, setting.meta_batch)):
        yield Work(f"Trainer, {training}", partial(_trainer, setting, training))
        yield Work(f"Data path, {training}", partial(_data_path, setting, training))
    for task in (omniglot, colour):
        yield Work(f"Bare network, ProtoNet, {task}", partial(_network, setting, task))
    if setting.device.type == "cpu":
        for num_steps, num_shots in product((1, 5), (1, 5)):
            task, adaptation = Task("CIFARFS", 5, num_shots, 15), Adaptation(num_steps, first_order=False)
            yield Work(f"Convolutions, MAML, {task}, {adaptation}", partial(_convolutions, setting, task, adaptation))
    if setting.device.type == "cuda":
        yield Work(f"Peak, ProtoNet, {colour}", partial(_peak, setting, colour))


def _trainer(setting: Setting, training: _Training) -> Iterator[Comparison]:
    """A step under the Trainer, against the same step in a bare loop over the same data module."""
    model, data, count = training.build(), training.data(setting), training.count(setting)
    batches, step = episodes(data, setting.device), bare_step(model.to(setting.device))

    def ours() -> float:
        return trained_rate(model, data, count, setting)

    def bare() -> float:
        model.to(setting.device).train()
        work = count * training.tasks_per_step
        return rate(lambda: [step(next(batches)) for _ in range(count)], work, setting.device)

    yield compared(f"{training}, Trainer against the bare loop", "tasks/s", ours, bare, setting.repeats)


def _data_path(setting: Setting, training: _Training) -> Iterator[Comparison]:
    """The making of each step's tasks, from sampling to normalised images, against the step itself."""
    count, batches = training.count(setting), episodes(training.data(setting), setting.device)
    episode, step = next(batches), bare_step(training.build().to(setting.device))

    def ours() -> float:
        return rate(lambda: [next(batches) for _ in range(count)], count, setting.device)

    def without_data() -> float:
        return rate(lambda: [step(episode) for _ in range(count)], count, setting.device)

    name = f"{training}, making its tasks against its step"
    yield compared(name, "steps/s", ours, without_data, setting.repeats)


def _network(setting: Setting, task: Task) -> Iterator[Comparison]:
    """ProtoNet's step, against a forward and backward pass of its network on as many random images."""
    count = setting.steps(max(4, 1600 // task.num_images))
    data = setting.data(task)
    episode, step = next(episodes(data, setting.device)), bare_step(protonet(task).to(setting.device))
    network = build_backbone("conv4", task.image_shape, "running").to(setting.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.randn(task.num_images, *task.image_shape, device=setting.device)

    def bare() -> None:
        for _ in range(count):
            network.zero_grad()
            network(images).square().mean().backward()

    def ours() -> float:
        return rate(lambda: [step(episode) for _ in range(count)], count * task.num_images, setting.device)

    def limit() -> float:
        return rate(bare, count * task.num_images, setting.device)

    yield compared(f"ProtoNet, {task}, against its bare network", "images/s", ours, limit, setting.repeats)


def _convolutions(setting: Setting, task: Task, adaptation: Adaptation) -> Iterator[Comparison]:
    """MAML's step, against the convolutions in it, as if nothing else took any time."""
    data = setting.data(task, tasks_per_batch=setting.meta_batch)
    episode, model = next(episodes(data, setting.device)), maml(task, adaptation)
    step = bare_step(model)
    # One group of tasks at a time, on all cores: convolutions of several threads could not be counted.
    together = model.num_side_by_side(episode.support_x[0], episode.num_tasks)
    step_in_turns = bare_step(maml(task, adaptation, task_chunk=together))

    def ours() -> float:
        return rate(lambda: step(episode), episode.num_tasks, setting.device)

    def limit() -> float:
        convolutions = _Convolutions()
        with convolutions:
            step_in_turns(episode)
        return episode.num_tasks / convolutions.seconds

    yield compared(f"MAML, {task}, {adaptation}, against its convolutions", "tasks/s", ours, limit, setting.repeats)


class _Convolutions(TorchDispatchMode):
    """Counts the seconds that a CPU spends in convolutions and their gradients."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds = 0.0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        started = time.perf_counter()
        outputs = function(*args, **(kwargs or {}))
        if "convolution" in function.__name__:
            self.seconds += time.perf_counter() - started
        return outputs


def _peak(setting: Setting, task: Task) -> Iterator[Comparison]:
    """ProtoNet's operations per second, against the GPU's nominal peak in float32."""
    name = torch.cuda.get_device_name(setting.device)
    peak = next((most for part, most in _PEAK.items() if part in name), float("nan"))
    data = setting.data(task, tasks_per_batch=16)
    episode, step = next(episodes(data, setting.device)), bare_step(protonet(task).to(setting.device))
    with FlopCounterMode(display=False) as counter:
        step(episode)
    operations, count = counter.get_total_flops(), setting.steps(20)

    def ours() -> float:
        with tf32_allowed(False):
            return rate(lambda: [step(episode) for _ in range(count)], count * operations, setting.device)

    yield compared(f"ProtoNet, {task}, against the peak of {name}", "FLOP/s", ours, lambda: peak, setting.repeats)
