"""Evaluating a ProtoNet on many episodes of CIFAR-FS's test classes."""

from collections.abc import Iterator

import torch
from pytorch_lightning import Trainer

from fewshot_pl.data.image_datamodule import ImageDataModule
from fewshot_pl.episode import Episode
from throughput.apart import compared_apart
from throughput.learn2learn_way import batches_of, protonet_logits
from throughput.our_way import protonet
from throughput.protonet import network
from throughput.setting import Setting, Task
from throughput.timing import Comparison, Rate, rate

_EPISODES = 10_000


def comparisons(setting: Setting) -> Iterator[Comparison]:
    num_episodes = setting.amount(_EPISODES, 1000)
    for task in (Task("CIFARFS", 5, shots, 15) for shots in (1, 5)):
        name = f"ProtoNet's evaluation, {task}, {num_episodes} episodes, against images embedded for each episode"
        data = setting.data(task, num_test_episodes=num_episodes, eval_tasks_per_batch=64)
        part = data.fixed_episodes("test", 0, setting.amount(100, 10))
        yield compared_apart(setting, name, "episodes/s", _ours(setting, task, data), _theirs(setting, task, part))


def _ours(setting: Setting, task: Task, data: ImageDataModule) -> Rate:
    """The whole evaluation."""
    model = protonet(task)
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


def _theirs(setting: Setting, task: Task, part: Episode) -> Rate:
    """A part of the episodes, as each costs the same; accuracy is read after each, as easyfsl and learn2learn do."""
    model = network(task).to(setting.device).eval()
    logits_of, batches = protonet_logits(model, task), batches_of(part)

    def one_by_one() -> None:
        with torch.no_grad():
            for images, labels in batches:
                logits, answers = logits_of(images.to(setting.device), labels.to(setting.device))
                (logits.argmax(-1) == answers).float().mean().item()

    return lambda: rate(one_by_one, part.num_tasks, setting.device)
