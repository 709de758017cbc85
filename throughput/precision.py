"""Training in half precision, and on CUDA with TensorFloat-32, against the same training in float32."""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch

from fewshot_pl.tf32 import allow_tf32
from throughput.our_way import Build, Precision, maml, protonet, trained_rate
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, Work, compared


def work(setting: Setting) -> Iterator[Work]:
    """Here, ours is our training in the faster precision, and the peer is our training in float32."""
    for task in (Task("Omniglot", 60, 1, 5), Task("CIFARFS", 20, 5, 15)):
        yield _of(setting, f"ProtoNet, {task}", task, partial(protonet, task), 1)
    for benchmark in ("Omniglot", "CIFARFS"):
        task = Task(benchmark, 5, 1, 15)
        for num_steps in (1, 5)[: setting.amount(2)]:
            adaptation = Adaptation(num_steps, first_order=False)
            yield _of(setting, f"MAML, {task}, {adaptation}", task, partial(maml, task, adaptation), setting.meta_batch)


def _of(setting: Setting, name: str, task: Task, build: Build, tasks_per_step: int) -> Work:
    return Work(f"Precision, {name}", partial(_compared, setting, name, task, build, tasks_per_step))


def _compared(setting: Setting, name: str, task: Task, build: Build, tasks_per_step: int) -> Iterator[Comparison]:
    model = build()
    data = setting.data(task, tasks_per_batch=tasks_per_step)
    count = setting.steps(max(2, 1600 // (task.num_images * tasks_per_step)))

    def trained(precision: Precision, tf32: bool) -> float:
        with tf32_allowed(tf32):
            return trained_rate(model, data, count, setting, precision=precision)

    ways = {"bf16-mixed": partial(trained, "bf16-mixed", False)}
    if setting.device.type == "cuda":
        ways["TF32"] = partial(trained, "32-true", True)
    float32 = partial(trained, "32-true", False)
    for way, ours in ways.items():
        yield compared(f"{name}, {way} against float32", "tasks/s", ours, float32, setting.repeats)


@contextmanager
def tf32_allowed(allowed: bool) -> Iterator[None]:
    """A context in which TensorFloat-32 is allowed everywhere, or nowhere."""
    before = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    allow_tf32(allowed)
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = before
