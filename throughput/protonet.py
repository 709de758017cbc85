"""ProtoNet's training episodes per second."""

from collections.abc import Iterator
from functools import partial
from itertools import islice

from torch import nn

from throughput.apart import compared_apart
from throughput.learn2learn_way import batches_of, learn2learn, protonet_step, samples, taskset
from throughput.our_way import bare_step, episodes, protonet, trained_rate
from throughput.setting import Setting, Task
from throughput.timing import Comparison, Work, rate

TASKS = (Task("Omniglot", 60, 1, 5), Task("CIFARFS", 20, 5, 15), Task("Omniglot", 5, 1, 15), Task("CIFARFS", 5, 1, 15))


def work(setting: Setting) -> Iterator[Work]:
    for task in TASKS:
        yield Work(f"ProtoNet, {task}", partial(_of, setting, task))


def network(task: Task) -> nn.Module:
    """learn2learn's pooled Conv4-64, without its head."""
    backbone: nn.Module = learn2learn().vision.models.CNN4Backbone(hidden_size=64, channels=task.image_shape[0])
    return backbone


def _of(setting: Setting, task: Task) -> Iterator[Comparison]:
    steps = max(4, 1600 // task.num_images)
    count, count_read = setting.steps(steps), setting.amount(steps, 2)  # reading files takes the peer as long on a GPU
    data = setting.data(task)
    theirs = protonet_step(network(task), task, setting.device)
    sampled = samples(taskset(setting, task))

    def ours_whole() -> float:
        return trained_rate(protonet(task), data, count, setting)

    def theirs_whole() -> float:
        return rate(lambda: [theirs(batch) for batch in islice(sampled, count_read)], count_read, setting.device)

    yield compared_apart(setting, f"ProtoNet, {task}, end to end", "episodes/s", ours_whole, theirs_whole)

    episode = next(episodes(data, setting.device))
    ours = bare_step(protonet(task).to(setting.device))
    (batch,) = batches_of(episode)

    def ours_bare() -> float:
        return rate(lambda: [ours(episode) for _ in range(count)], count, setting.device)

    def theirs_bare() -> float:
        return rate(lambda: [theirs(batch) for _ in range(count)], count, setting.device)

    yield compared_apart(setting, f"ProtoNet, {task}, given the same tensors", "episodes/s", ours_bare, theirs_bare)
