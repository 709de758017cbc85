"""Evaluation on many episodes of test classes, in episodes per second."""

from collections.abc import Iterator
from functools import partial

import torch
from pytorch_lightning import Trainer

from fewshot_pl.algorithms import FewShotAlgorithm
from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode
from throughput.apart import compared_apart
from throughput.learn2learn_way import batches_of, maml_network, maml_test, protonet_logits
from throughput.our_way import maml, protonet
from throughput.protonet import network
from throughput.setting import Adaptation, Setting, Task
from throughput.timing import Comparison, Rate, Work, rate


def work(setting: Setting) -> Iterator[Work]:
    for task in (Task("CIFARFS", 5, shots, 15) for shots in (1, 5)):
        yield Work(f"ProtoNet's evaluation, {task}", partial(_protonet, setting, task, setting.amount(10_000, 1000)))
    for task in (Task(benchmark, 5, 1, 15) for benchmark in ("Omniglot", "CIFARFS")):
        adaptation = Adaptation(5, first_order=False)
        yield Work(f"MAML's evaluation, {task}", partial(_maml, setting, task, adaptation, setting.amount(400, 20)))


def _protonet(setting: Setting, task: Task, num_episodes: int) -> Iterator[Comparison]:
    name = f"ProtoNet's evaluation, {task}, {num_episodes} episodes, against images embedded for each episode"
    data = setting.data(task, num_test_episodes=num_episodes, eval_tasks_per_batch=64)
    part = data.fixed_episodes("test", 0, setting.amount(100, 10))
    ours = _tested(setting, protonet(task), data)
    yield compared_apart(setting, name, "episodes/s", ours, _embedded_for_each(setting, task, part))


def _maml(setting: Setting, task: Task, adaptation: Adaptation, num_episodes: int) -> Iterator[Comparison]:
    name = f"MAML's evaluation, {task}, {adaptation.num_steps} inner steps, {num_episodes} episodes"
    data = setting.data(task, num_test_episodes=num_episodes)
    batches = batches_of(data.fixed_episodes("test", 0, setting.amount(100, 10)))
    accuracies = maml_test(maml_network(task), adaptation, task, setting.device)

    def theirs() -> float:
        return rate(lambda: accuracies(batches), len(batches), setting.device)

    yield compared_apart(setting, name, "episodes/s", _tested(setting, maml(task, adaptation), data), theirs)


def _tested(setting: Setting, model: FewShotAlgorithm, data: ImageDataModule) -> Rate:
    """The rate of the whole evaluation."""
    trainer = Trainer(
        accelerator=setting.accelerator,
        devices=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )

    def tested() -> None:
        trainer.test(model, datamodule=data, verbose=False)

    return lambda: rate(tested, data.num_episodes["test"], setting.device)


def _embedded_for_each(setting: Setting, task: Task, part: Episode) -> Rate:
    """The rate on some episodes, as all cost the same; accuracy is read after each, as easyfsl and learn2learn do."""
    model = network(task).to(setting.device).eval()
    logits_of, batches = protonet_logits(model, task), batches_of(part)

    def one_by_one() -> None:
        with torch.no_grad():
            for images, labels in batches:
                logits, answers = logits_of(images.to(setting.device), labels.to(setting.device))
                (logits.argmax(-1) == answers).float().mean().item()

    return lambda: rate(one_by_one, part.num_tasks, setting.device)
