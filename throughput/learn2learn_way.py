"""Training and sampling as learn2learn's examples do them."""

import contextlib
import io
import random
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fewshot_pl.data.one_process import one_process
from fewshot_pl.episode import Episode
from throughput.image_files import image_dataset
from throughput.setting import Adaptation, Setting, Task

Batch = tuple[Tensor, Tensor]  # images [N*(K+Q), C, H, W] and labels [N*(K+Q)] of a task, in any order
Step = Callable[[list[Batch]], None]  # an optimisation step on some tasks


def learn2learn() -> Any:
    """The package, imported without its notices."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        import learn2learn  # seconds to import, so only here
    return learn2learn


def taskset(setting: Setting, task: Task, on_device: bool = False) -> Any:
    """learn2learn's Taskset over image files, as its benchmarks build it; ``on_device``: over its OnDeviceDataset."""
    with one_process(setting.work / "files"):  # the processes of both sides get here
        return _taskset(setting, task, on_device)


def _taskset(setting: Setting, task: Task, on_device: bool) -> Any:
    l2l = learn2learn()
    images: Any = image_dataset(setting, task)
    if on_device:
        images = l2l.data.OnDeviceDataset(images, device=setting.device)
    else:
        setting.work.mkdir(parents=True, exist_ok=True)
        images._bookkeeping_path = str(setting.work / f"{task.benchmark}-bookkeeping.pkl")
    dataset = l2l.data.MetaDataset(images)
    transforms = [
        l2l.data.transforms.FusedNWaysKShots(dataset, n=task.num_ways, k=task.num_shots + task.num_queries),
        l2l.data.transforms.LoadData(dataset),
        l2l.data.transforms.RemapLabels(dataset),
        l2l.data.transforms.ConsecutiveLabels(dataset),
    ]
    if task.benchmark == "Omniglot":
        transforms.append(l2l.vision.transforms.RandomClassRotation(dataset, [0.0, 90.0, 180.0, 270.0]))
    return l2l.data.Taskset(dataset, task_transforms=transforms, num_tasks=-1)


def samples(tasks: Any) -> Iterator[Batch]:
    """Fresh tasks, without end."""
    while True:
        images, labels = tasks.sample()
        yield images, labels


def batches_of(episode: Episode) -> list[Batch]:
    """The tasks of an Episode, each with the support first."""
    images = torch.cat([episode.support_x, episode.query_x], 1)
    labels = torch.cat([episode.support_y, episode.query_y], 1)
    return list(zip(images, labels, strict=True))


def maml_network(task: Task) -> nn.Module:
    """The Conv4-64 of learn2learn's MAML examples: strided for Omniglot, pooled for colour images."""
    models = learn2learn().vision.models
    colour = models.CNN4(task.num_ways, hidden_size=64, embedding_size=64 * 4)
    network: nn.Module = models.OmniglotCNN(task.num_ways) if task.benchmark == "Omniglot" else colour
    return network


def maml_step(network: nn.Module, adaptation: Adaptation, task: Task, device: torch.device) -> Step:
    """The optimisation step on a list of tasks, as examples/vision/maml_omniglot.py takes it."""
    maml = _maml(network, adaptation, device)
    return _step(maml.parameters(), lambda batch: _adapted_logits(maml, adaptation, batch, task, device))


def meta_sgd_step(network: nn.Module, adaptation: Adaptation, task: Task, device: torch.device) -> Step:
    """The same with MetaSGD in place of MAML."""
    meta_sgd = learn2learn().algorithms.MetaSGD(
        network.to(device), lr=adaptation.inner_lr, first_order=adaptation.first_order
    )
    return _step(meta_sgd.parameters(), lambda batch: _adapted_logits(meta_sgd, adaptation, batch, task, device))


def anil_step(network: Any, adaptation: Adaptation, task: Task, device: torch.device) -> Step:
    """The optimisation step on a list of tasks, as examples/vision/anil_fc100.py takes it.

    Support and queries pass the body together.
    """
    body, head = network.features.to(device), _maml(network.classifier, adaptation, device)

    def logits_of(batch: Batch) -> Batch:
        images, labels = batch
        return _adapted_logits(head, adaptation, (body(images.to(device)), labels), task, device)

    return _step([*body.parameters(), *head.parameters()], logits_of)


def _step(parameters: Iterable[nn.Parameter], logits_of: Callable[[Batch], Batch]) -> Step:
    """A step of Adam on the mean loss of tasks, whose queries' logits and labels ``logits_of`` gives."""
    learned = list(parameters)
    optimizer = torch.optim.Adam(learned, lr=0.003)

    def step(batches: list[Batch]) -> None:
        optimizer.zero_grad()
        for batch in batches:
            logits, labels = logits_of(batch)
            torch.autograd.backward(F.cross_entropy(logits, labels))
        for parameter in learned:
            assert parameter.grad is not None
            parameter.grad.data.mul_(1.0 / len(batches))
        optimizer.step()

    return step


def maml_test(
    network: nn.Module, adaptation: Adaptation, task: Task, device: torch.device
) -> Callable[[list[Batch]], list[float]]:
    """The function from tasks to their accuracies, as measured at the end of examples/vision/maml_omniglot.py."""
    maml = _maml(network, adaptation, device)

    def accuracies(batches: list[Batch]) -> list[float]:
        answers = (_adapted_logits(maml, adaptation, batch, task, device) for batch in batches)
        return [(logits.argmax(1) == labels).float().mean().item() for logits, labels in answers]

    return accuracies


def _maml(network: nn.Module, adaptation: Adaptation, device: torch.device) -> Any:
    network.to(device)
    return learn2learn().algorithms.MAML(network, lr=adaptation.inner_lr, first_order=adaptation.first_order)


def _adapted_logits(maml: Any, adaptation: Adaptation, batch: Batch, task: Task, device: torch.device) -> Batch:
    """The logits [N*Q, N] and labels [N*Q] of a task's queries, after the steps on its support."""
    images, labels = batch
    learner = maml.clone()
    support, (query, query_y) = _halves(images.to(device), labels.to(device), task)
    for _ in range(adaptation.num_steps):
        learner.adapt(F.cross_entropy(learner(support[0]), support[1]))
    return learner(query), query_y


def protonet_step(network: nn.Module, task: Task, device: torch.device) -> Callable[[Batch], None]:
    """The optimisation step on a task, as examples/vision/protonet_miniimagenet.py takes it."""
    network.to(device)
    optimizer = torch.optim.Adam(network.parameters(), lr=0.001)
    logits_of = protonet_logits(network, task)

    def step(batch: Batch) -> None:
        images, labels = batch
        logits, query_y = logits_of(images.to(device), labels.to(device))
        loss = F.cross_entropy(logits, query_y)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()

    return step


def protonet_logits(network: nn.Module, task: Task) -> Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """The function from a task to its queries' logits [N*Q, N] and labels [N*Q]; it embeds all images for it alone."""
    learn2learn()
    from learn2learn.nn import PrototypicalClassifier

    def logits(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        (support, support_y), (query, query_y) = _halves(images, labels, task)
        features = network(torch.cat([support, query]))
        classifier = PrototypicalClassifier(features[: len(support)], support_y)
        outputs: Tensor = classifier(features[len(support) :])
        return outputs, query_y

    return logits


def _halves(images: Tensor, labels: Tensor, task: Task) -> tuple[Batch, Batch]:
    """Support and queries: the first K images of each class, and the others."""
    order = torch.argsort(labels, stable=True).view(task.num_ways, -1)
    support, query = order[:, : task.num_shots].flatten(), order[:, task.num_shots :].flatten()
    return (images[support], labels[support]), (images[query], labels[query])


def seed(number: int) -> None:
    """Seed the global random states of Python and torch, from which learn2learn draws."""
    random.seed(number)
    torch.manual_seed(number)
